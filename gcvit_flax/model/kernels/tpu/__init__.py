"""Kernels for TPUs, written in Pallas: whole residual branches, which XLA would spread over memory and lay out anew.

A grid step holds some windows of some images in a core's vector memory. Arrays are (rows, channels) there: rows along
the 8 sublanes of a register, channels along its 128 lanes. The backward kernels compute the forward pass again and sum
the gradients of weights over the grid. The functions around kernels are `jit`ted, so that the same kernel in several
blocks is traced once: programs for other platforms trace them too.
"""
