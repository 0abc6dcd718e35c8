"""Several TensorFlow devices that share each batch. Axes: B images, G texts per image, T text positions, V vocabulary."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from trainers.optimization import CaptionLoss


class TowerModel(keras.Model):
    """A training model that computes the gradient of a batch in equal parts, each on a device of its own, at the same time.

    There is one set of variables, on the first device; the parts read them and their gradients are added there. So loss,
    gradient norm, moving averages and accumulated gradients are those of the whole batch. Only dropout differs from a
    single device: each part draws its own.

    Args:
        model: the training model, from images or features, token_ids and padding_mask to logits.
        devices: names of N devices; they divide B.
        loss: `CaptionLoss` of a batch: with the reduction "sum" the weights hold an average already.
    """

    def __init__(self, model: keras.Model, devices: Sequence[str], loss: CaptionLoss):
        super().__init__(name="towers")
        self.model = model
        self.devices = tuple(devices)
        self.is_mean = loss.reduction != "sum"
        # A part must not be averaged by itself: `train_step` puts the average of the whole batch into the weights.
        self.caption_loss = CaptionLoss(loss.label_smoothing, reduction="sum")

    def call(self, inputs, training=None):
        return self.model(inputs, training=training)

    def train_step(self, data):
        x, targets, sample_weight = data
        total = tf.maximum(tf.reduce_sum(sample_weight), 1.0) if self.is_mean else 1.0
        weights = sample_weight / total
        variables = self.trainable_variables
        losses, gradients = [], []
        for device, part in zip(self.devices, self._parts((x, targets, weights)), strict=True):
            part_x, part_targets, part_weights = part
            with tf.device(device):
                with tf.GradientTape() as tape:
                    loss = self.caption_loss(part_targets, self.model(part_x, training=True), part_weights)
                    scaled = self.optimizer.scale_loss(loss)
                gradients.append(tape.gradient(scaled, variables))
            losses.append(loss)
        self.optimizer.apply_gradients(zip(map(_sum, zip(*gradients, strict=True)), variables, strict=True))
        self._loss_tracker.update_state(tf.add_n(losses), sample_weight=tf.shape(targets)[0])
        return {metric.name: metric.result() for metric in self.metrics}

    def _parts(self, data) -> list:
        flat = [tf.split(array, len(self.devices)) for array in tf.nest.flatten(data)]
        return [tf.nest.pack_sequence_as(data, part) for part in zip(*flat, strict=True)]


def _sum(gradients):
    """The sum of a variable's gradients, or None where it has none."""
    if gradients[0] is None:
        return None
    return tf.add_n([tf.convert_to_tensor(gradient) for gradient in gradients])
