// clang-15 -cl-std=CL1.2 --target=nvptx64-nvidia-cuda -march=sm_50 -O2 -S -o edges.ptx edges.cl
// The edges of a picture, |across| + |down| of its green, written beside it in the same message; a pixel for each item.
#ifdef __NVPTX__
#define get_global_id(n) \
    (__nvvm_read_ptx_sreg_ctaid_x() * __nvvm_read_ptx_sreg_ntid_x() + __nvvm_read_ptx_sreg_tid_x())
#endif

kernel void find_edges(global uchar *message, uint width, uint height, uint edges, uint image) {  // in bytes
    const uint pixel = get_global_id(0), x = pixel % width, y = pixel / width;
    if (y >= height) return;
    uint found = 0;
    if (x != 0 && y != 0 && x != width - 1 && y != height - 1) {
        global const uchar *green = message + image + 3 * pixel + 1;
        const int across = green[3] - green[-3], down = green[3 * width] - green[-(int)(3 * width)];
        const int steep = 3 * ((across < 0 ? -across : across) + (down < 0 ? -down : down));
        found = steep < 255 ? steep : 255;
    }
    message[edges + pixel] = found;
}
