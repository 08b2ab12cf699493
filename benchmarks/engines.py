"""The train step of a hybrid head by qwafer's engines and by their peers, in one interleaved run."""
