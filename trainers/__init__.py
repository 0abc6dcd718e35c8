"""Training: data pipelines, the loop, checkpoints, and the trainer of tables of images and captions."""
