"""Data parallel programs: the batch in equal parts over a mesh of JAX devices, the weights on every one of them."""
