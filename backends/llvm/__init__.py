"""Native code generation: instruction sets, the loop builder, kernels, compilation and loading."""
