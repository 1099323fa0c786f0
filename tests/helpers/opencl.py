"""Kernels for tests of OpenCL devices. Child processes import it by its name."""

SCALE = """
kernel void scale(global float *x, float times, float plus) {
    size_t i = get_global_id(0);
    x[i] = x[i] * times + plus;
}
"""
ADD = "kernel void add(const global float *x, global float *y) { y[get_global_id(0)] += x[get_global_id(0)]; }"
SET = "kernel void set(global uint *x) { x[0] = 7; }"

# Counts for a while, then sets the first element: the slowest way to write 7.
SLOW = """
kernel void slow(global uint *x, uint n) {
    uint a = x[1];
    for (uint i = 0; i < n; ++i) a = a * 1664525u + 1013904223u + (a >> 3);
    x[2] = a;
    x[0] = 7;
}
"""
