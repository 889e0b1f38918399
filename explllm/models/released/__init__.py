"""Import of the weights that the authors' released code writes (model type ``locllm``)."""
