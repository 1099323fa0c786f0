#version 450
// glslangValidator -V --target-env vulkan1.1 -o edges.spv edges.comp
// The edges of a picture, |across| + |down| of its green, written beside it in the same message. Buffers are words of
// 4 bytes here, so a thread writes four pixels; the last one keeps the bytes behind them.
layout(local_size_x = 128) in;
layout(std430, set = 0, binding = 0) buffer Message { uint words[]; };
layout(push_constant) uniform Picture { uint width, height, edges, image; };  // where they begin, in bytes

int green(uint pixel) {
    uint at = image + 3 * pixel + 1;
    return int(bitfieldExtract(words[at / 4], int(at % 4 * 8), 8));
}

uint edge(uint pixel) {
    uint x = pixel % width, y = pixel / width;
    if (x == 0 || y == 0 || x == width - 1 || y == height - 1) return 0;
    int steep = abs(green(pixel + 1) - green(pixel - 1)) + abs(green(pixel + width) - green(pixel - width));
    return uint(min(3 * steep, 255));
}

void main() {
    uint first = 4 * gl_GlobalInvocationID.x, pixels = width * height;
    if (first >= pixels) return;
    uint word = words[(edges + first) / 4];
    for (uint i = 0; i < min(4, pixels - first); ++i) word = bitfieldInsert(word, edge(first + i), int(8 * i), 8);
    words[(edges + first) / 4] = word;
}
