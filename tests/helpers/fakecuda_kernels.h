// Modules and kernels of the stand-in. A module is PTX, of which it reads no more than which kernels there are: what they
// do is written here once more, in C. So the launch is tested, and the PTX is not.
enum { INVALID_PTX = 218, NOT_FOUND = 500 };

struct Kernel {
    const char *name;
    int sizes[6];  // of the parameters, in bytes; 8: an address
    void (*run)(uint32_t thread, const uint64_t *parameters);
};
static void find_edges(uint32_t pixel, const uint64_t *p) {
    const uint32_t width = (uint32_t)p[1], height = (uint32_t)p[2], x = pixel % width, y = pixel / width;
    unsigned char *message = (unsigned char *)p[0], *green = message + p[4] + 3 * (uint64_t)pixel + 1;
    if (y >= height) return;
    int found = 0;
    if (x != 0 && y != 0 && x != width - 1 && y != height - 1)
        found = 3 * (abs(green[3] - green[-3]) + abs(green[3 * width] - *(green - 3 * width)));
    message[p[3] + pixel] = (unsigned char)(found < 255 ? found : 255);
}
static void scale(uint32_t i, const uint64_t *p) {
    float times, *x = (float *)p[0];
    memcpy(&times, &p[2], sizeof times);
    if (i < p[1]) x[i] *= times;
}
static const struct Kernel kernels[] = {{"find_edges", {8, 4, 4, 4, 4}, find_edges}, {"scale", {8, 4, 4}, scale}};
static int modules;

struct Launch { const struct Kernel *kernel; uint32_t threads; uint64_t parameters[6]; };
static void launch(void *data) {
    struct Launch *l = data;
    for (uint32_t i = 0; i < l->threads; ++i) l->kernel->run(i, l->parameters);
    free(l);
}

int cuModuleLoadDataEx(void **module, const void *image, unsigned count, int *options, void **values) {
    READY(1);
    if (!strstr(image, ".entry") || !strstr(image, ".version")) {
        for (unsigned i = 0; i < count; ++i)
            if (options[i] == 5) strcpy(values[i], "ptxas fatal: no kernel in it");
        return INVALID_PTX;
    }
    *module = strdup(image);
    __sync_add_and_fetch(&modules, 1);
    return SUCCESS;
}
int cuModuleUnload(void *module) {
    READY(1);
    free(module);
    __sync_sub_and_fetch(&modules, 1);
    return SUCCESS;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    READY(1);
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; ++i)
        if (strcmp(kernels[i].name, name) == 0 && strstr(module, name)) return *function = (void *)&kernels[i], SUCCESS;
    return NOT_FOUND;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **values, void **extra) {
    READY(1);
    const struct Kernel *k = function;
    const uint64_t block = (uint64_t)bx * by * bz;
    if (!k || extra || shared != 0 || block == 0 || block > 1024 || gx == 0 || gy == 0 || gz == 0 || gy > 65535 || gz > 65535) return INVALID_VALUE;
    struct Launch *l = calloc(1, sizeof *l);
    l->kernel = k;
    l->threads = gx * gy * gz * (uint32_t)block;
    for (int i = 0; k->sizes[i] != 0; ++i) {
        memcpy(&l->parameters[i], values[i], (size_t)k->sizes[i]);
        if (k->sizes[i] != 8) continue;
        l->parameters[i] = (uint64_t)(uintptr_t)bytes_at(l->parameters[i], 1, 1);
        if (l->parameters[i] == 0) return free(l), INVALID_VALUE;  // a GPU would fault later
    }
    return enqueue(stream, (struct Work){.kind = CALL, .call = launch, .data = l});
}
/// Modules that are loaded.
int fakeModules(void) { return modules; }

