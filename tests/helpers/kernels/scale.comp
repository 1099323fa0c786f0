#version 450
// glslangValidator -V --target-env vulkan1.1 -o scale.spv scale.comp
layout(local_size_x = 64) in;
layout(std430, set = 0, binding = 0) buffer Message { float x[]; } message;
layout(push_constant) uniform Factors { float times, plus; };

void main() {
    uint i = gl_GlobalInvocationID.x;
    if (i < message.x.length()) message.x[i] = message.x[i] * times + plus;
}
