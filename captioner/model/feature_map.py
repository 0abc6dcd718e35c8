"""The layer that runs the image network of a captioner."""

import keras

from captioner.model.encoder_split import chain
from captioner.model.recomputation import recomputed


@keras.saving.register_keras_serializable("captioner")
class FeatureMap(keras.layers.Layer):
    """Runs an image network, and decides whether its batch statistics are learned.

    A functional model hands its own `training` on to the models inside it: only a layer around one can keep
    it away.

    Args:
        network: `keras.Model` of images or features.
        train_batch_norm: bool. False runs the network as in inference, also while its weights are trained.

    Call arguments:
        images: float tensor, as the network takes; not cast to the compute dtype, which would round pixels.

    Returns:
        Float tensor, as the network gives.
    """

    def __init__(self, network: keras.Model, train_batch_norm: bool = False, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.network = network
        self.train_batch_norm = train_batch_norm
        self.recompute = False
        """Whether training computes the network again in the backward pass, part by part."""

    def build(self, input_shape):
        self.built = True

    def call(self, images, training=None):
        if not (self.recompute and training):
            return self.network(images, training=training if self.train_batch_norm else False)
        features = images
        for part in chain(self.network):
            features = recomputed(lambda x, part=part: part(x, training=False), features)
        return features

    def compute_output_spec(self, images, training=None):
        # Known already; Keras would run the whole network once more to find it.
        output = self.network.outputs[0]
        return keras.KerasTensor((images.shape[0], *output.shape[1:]), dtype=output.dtype)

    def get_config(self):
        network = keras.saving.serialize_keras_object(self.network)
        return super().get_config() | {"network": network, "train_batch_norm": self.train_batch_norm}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"network": keras.saving.deserialize_keras_object(config["network"])})
