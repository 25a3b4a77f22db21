"""The operations that dominate the running time, as functions; all but the max-pool have a hand-written gradient.

`custom_gradient` leaves all other derivatives to JAX. `plain` has reference implementations, and the tests compare
values and gradients with them. Where platforms want different forms, `jax.lax.platform_dependent` chooses by the one
that a program is compiled for, and `late` also by whether XLA divides it among devices; `tpu` has kernels in Pallas.

`save_for_backward` marks what the gradients read. `cpu_barrier` stands where XLA:CPU must write a result to memory
once: it otherwise computes chains of additions and normalizations again for each operation that reads them, and merges
what the backward pass is meant to compute again with what the forward pass computed. It only heeds it in programs
compiled with `gcvit_flax.devices.compiler_options`. It also keeps products out of sums along rows, and makes it
transpose the smaller factor of a product.
"""
