"""Image captioning in Keras 3: an image encoder, image tokens and a GPT-2 decoder."""
