#version 450
// glslangValidator -V --target-env vulkan1.1 -o add.spv add.comp
layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) readonly buffer From { float x[]; } from;
layout(std430, set = 0, binding = 1) buffer To { float x[]; } to;

void main() {
    uint i = gl_GlobalInvocationID.x;
    if (i < to.x.length()) to.x[i] += from.x[i];
}
