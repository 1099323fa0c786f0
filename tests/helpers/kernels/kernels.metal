#include <metal_stdlib>
using namespace metal;

kernel void add_one(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
    x[i] += 1;
}

kernel void scale(device float* x [[buffer(0)]], constant float2& by [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {
    x[i] = x[i] * by.x + by.y;
}

kernel void sum(device float* out [[buffer(0)]], const device float* a [[buffer(1)]],
                const device float* b [[buffer(2)]], uint i [[thread_position_in_grid]]) {
    out[i] = a[i] + b[i];
}

// Where each thread is: tells whether all six numbers of a launch arrive.
kernel void place(device uint* out [[buffer(0)]], uint3 at [[thread_position_in_grid]], uint3 size [[threads_per_grid]],
                  uint3 group [[threadgroup_position_in_grid]]) {
    out[(at.z * size.y + at.y) * size.x + at.x] = 1000 * group.z + 100 * group.y + 10 * group.x + at.z;
}

kernel void gap(device float* x [[buffer(0)]], constant float2& by [[buffer(2)]], uint i [[thread_position_in_grid]]) {
    x[i] = by.x;
}

kernel void paint(texture2d<float, access::write> picture [[texture(0)]], uint2 at [[thread_position_in_grid]]) {
    picture.write(float4(0), at);
}
