"""Kernels for TPUs, written in Pallas: whole residuals, which XLA would spread over memory and lay out anew.

A grid step holds part of some images in a core's vector memory. In blocks that are windows, as (rows, channels): rows
along the 8 sublanes of a register, channels along its 128 lanes; in MBConv residuals strips of a row of the map, with
channels along the sublanes and images along the lanes. The backward kernels compute the forward pass again and sum
the gradients of weights over the grid. The functions around kernels are `jit`ted, so that the same kernel in several
blocks is traced once: programs for other platforms trace them too.
"""
