// A stand-in for libcuda.so.1: the calls of the driver that psyne uses, which refuse what a driver refuses. It says
// nothing of a real GPU: no time, no caches, no memory model.
//
//   host memory that was registered   device address == host address, or (FAKECUDA_ALIAS=1) another mapping of it
//   device memory                     a file of FAKECUDA_DIR; its device address is mapped without any access, so a host that
//                                     reads it dies, as it would; only streams have the mapping that can be used
//   streams                           a thread each, that waits FAKECUDA_DELAY us before each piece of work
//   handles for other processes       the name of a file
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef uint64_t Address;
typedef struct { char bytes[64]; } Handle;

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_READY = 600, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713,
    NOT_SUPPORTED = 801
};
enum { PORTABLE = 1, DEVICEMAP = 2, READ_ONLY = 8 };
enum { INTEGRATED = 18, PAGEABLE = 88, SAME_ADDRESS = 91, REGISTERS = 99, READ_ONLY_REGISTERS = 113, STREAM_VALUES = 122 };
enum { MOST = 1024 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t process;  // that called cuInit
static int context;    // its address is the one that there is
static int retained;
static _Thread_local int current;

static int number(const char *name, int usual) {
    const char *text = getenv(name);
    return text ? atoi(text) : usual;
}
static int ready(int needs_context) {
    if (process != getpid()) return NOT_INITIALIZED;  // also in a forked child
    return needs_context && (current == 0 || retained == 0) ? INVALID_CONTEXT : SUCCESS;
}
#define READY(needs_context) do { const int r_ = ready(needs_context); if (r_) return r_; } while (0)

int cuInit(unsigned flags) {
    if (flags != 0) return INVALID_VALUE;
    if (process != 0 && process != getpid()) return NOT_INITIALIZED;
    if (number("FAKECUDA_DEVICES", 1) < 1) return NO_DEVICE;
    process = getpid();
    return SUCCESS;
}
int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
int cuDeviceGetCount(int *count) { READY(0); *count = number("FAKECUDA_DEVICES", 1); return SUCCESS; }
int cuDeviceGet(int *device, int ordinal) {
    READY(0);
    if (ordinal < 0 || ordinal >= number("FAKECUDA_DEVICES", 1)) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}
int cuDeviceGetName(char *name, int size, int device) {
    READY(0);
    snprintf(name, (size_t)size, "stand-in %d", device);
    return SUCCESS;
}
/// Those of FAKECUDA_GPU are others.
int cuDeviceGetUuid_v2(char uuid[16], int device) {
    READY(0);
    memset(uuid, 0, 16);
    snprintf(uuid, 16, "gpu-%d-%d", number("FAKECUDA_GPU", 0), device);
    return SUCCESS;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { READY(0); (void)device; *bytes = 1u << 30; return SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    READY(0);
    (void)device;
    char name[32];
    snprintf(name, sizeof name, "FAKECUDA_ATTRIBUTE_%d", attribute);
    const int usual = attribute == REGISTERS || attribute == READ_ONLY_REGISTERS || attribute == STREAM_VALUES ||
                      (attribute == SAME_ADDRESS && !number("FAKECUDA_ALIAS", 0));
    *value = number(name, usual);
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **c, int device) { READY(0); (void)device; ++retained; *c = &context; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) {
    READY(0);
    (void)device;
    if (retained == 0) return INVALID_CONTEXT;
    --retained;
    return SUCCESS;
}
int cuCtxPushCurrent_v2(void *c) { READY(0); if (c != &context) return INVALID_CONTEXT; ++current; return SUCCESS; }
int cuCtxPopCurrent_v2(void **c) { READY(1); --current; *c = &context; return SUCCESS; }

// ---- memory -----------------------------------------------------------------------------------------------------------

struct Range {
    Address address;   // of the device
    char *bytes;       // where streams find it
    size_t size;
    void *host;        // registered memory: where the host has it; else null
    int writable, imported;
    char name[64];     // of its file
};
static struct Range ranges[MOST];
static int count_of_ranges, files;

/// Registered or allocated bytes; null where there are none. With the lock.
static struct Range *range_of(Address address, size_t size) {
    for (int i = 0; i < count_of_ranges; ++i)
        if (address >= ranges[i].address && address + size <= ranges[i].address + ranges[i].size && address + size >= address) return &ranges[i];
    return NULL;
}
static char *bytes_at(Address address, size_t size, int write) {
    pthread_mutex_lock(&lock);
    struct Range *r = range_of(address, size);
    char *found = r && (r->writable || !write) ? r->bytes + (address - r->address) : NULL;
    pthread_mutex_unlock(&lock);
    return found;
}
static void forget(struct Range *r) { *r = ranges[--count_of_ranges]; }

/// 1: mapped, 2: and writable; as the kernel says.
static int access_to(uintptr_t from, size_t size) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int access = 2;
    uintptr_t at = from;
    while (maps && at < from + size && fgets(line, sizeof line, maps)) {
        unsigned long begin, end;
        char rights[8];
        if (sscanf(line, "%lx-%lx %7s", &begin, &end, rights) != 3 || end <= at) continue;
        if (begin > at || rights[0] != 'r') break;
        if (rights[1] != 'w') access = 1;
        at = end;
    }
    if (maps) fclose(maps);
    return at < from + size ? 0 : access;
}

int cuMemHostRegister_v2(void *p, size_t size, unsigned flags) {
    READY(1);
    const int access = access_to((uintptr_t)p, size);
    if (size == 0 || (flags & ~(unsigned)(PORTABLE | DEVICEMAP | READ_ONLY)) != 0 || access == 0) return INVALID_VALUE;
    if (access == 1 && !(flags & READ_ONLY)) return INVALID_VALUE;
    pthread_mutex_lock(&lock);
    int result = count_of_ranges == MOST ? OUT_OF_MEMORY : SUCCESS;
    for (int i = 0; i < count_of_ranges; ++i)
        if (ranges[i].host && (char *)p < (char *)ranges[i].host + ranges[i].size && (char *)ranges[i].host < (char *)p + size) result = ALREADY_REGISTERED;
    void *at = p;
    if (!result && number("FAKECUDA_ALIAS", 0) && (at = mremap(p, 0, size, MREMAP_MAYMOVE)) == MAP_FAILED) result = INVALID_VALUE;
    if (!result && number("FAKECUDA_PINS", 1) && mlock(p, size) != 0) result = OUT_OF_MEMORY;
    if (!result) ranges[count_of_ranges++] = (struct Range){(Address)at, at, size, p, !(flags & READ_ONLY), 0, ""};
    pthread_mutex_unlock(&lock);
    return result;
}
int cuMemHostUnregister(void *p) {
    READY(1);
    pthread_mutex_lock(&lock);
    int result = NOT_REGISTERED;
    for (int i = 0; i < count_of_ranges && result; ++i) {
        if (!ranges[i].host || ranges[i].host != p) continue;
        // A driver that unpins memory which is not mapped any more has been used after munmap.
        result = access_to((uintptr_t)p, ranges[i].size) == 0 ? INVALID_VALUE : SUCCESS;
        munlock(p, ranges[i].size);
        if (ranges[i].bytes != p) munmap(ranges[i].bytes, ranges[i].size);
        forget(&ranges[i]);
    }
    pthread_mutex_unlock(&lock);
    return result;
}
int cuMemHostGetDevicePointer_v2(Address *address, void *p, unsigned flags) {
    READY(1);
    if (flags != 0) return INVALID_VALUE;
    pthread_mutex_lock(&lock);
    int result = INVALID_VALUE;
    for (int i = 0; i < count_of_ranges; ++i)
        if (ranges[i].host && (char *)p >= (char *)ranges[i].host && (char *)p < (char *)ranges[i].host + ranges[i].size) {
            *address = ranges[i].address + (Address)((char *)p - (char *)ranges[i].host);
            result = SUCCESS;
        }
    pthread_mutex_unlock(&lock);
    return result;
}

static void path_of(char *path, size_t size, const char *name) {
    const char *directory = getenv("FAKECUDA_DIR");
    snprintf(path, size, "%s/%s", directory ? directory : "/dev/shm", name);
}
/// The file of a name, mapped for streams. With the lock.
static char *map_file(const char *name, size_t *size, int make) {
    char path[512];
    path_of(path, sizeof path, name);
    const int fd = open(path, make ? O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC : O_RDWR | O_CLOEXEC, 0600);
    struct stat there;
    if (fd < 0) return NULL;
    if ((make && ftruncate(fd, (off_t)*size) != 0) || fstat(fd, &there) != 0) {
        close(fd);
        return NULL;
    }
    *size = (size_t)there.st_size;
    char *bytes = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return bytes == MAP_FAILED ? NULL : bytes;
}
static int add_device_memory(Address *address, const char *name, size_t size, int make) {
    pthread_mutex_lock(&lock);
    char *bytes = count_of_ranges == MOST ? NULL : map_file(name, &size, make);
    void *nothing = bytes ? mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) : MAP_FAILED;
    if (nothing != MAP_FAILED) {
        struct Range r = {(Address)nothing, bytes, size, NULL, 1, !make, ""};
        snprintf(r.name, sizeof r.name, "%s", name);
        ranges[count_of_ranges++] = r;
        *address = r.address;
    }
    pthread_mutex_unlock(&lock);
    return nothing == MAP_FAILED ? OUT_OF_MEMORY : SUCCESS;
}
static int drop_device_memory(Address address, int imported) {
    pthread_mutex_lock(&lock);
    struct Range *r = range_of(address, 1);
    const int good = r && !r->host && r->address == address && r->imported == imported;
    if (good) {
        char path[512];
        path_of(path, sizeof path, r->name);
        if (!imported) unlink(path);
        munmap(r->bytes, r->size);
        munmap((void *)r->address, r->size);
        forget(r);
    }
    pthread_mutex_unlock(&lock);
    return good ? SUCCESS : INVALID_VALUE;
}
int cuMemAlloc_v2(Address *address, size_t size) {
    READY(1);
    if (size == 0) return INVALID_VALUE;
    if (size > (size_t)number("FAKECUDA_MEMORY", 1 << 30)) return OUT_OF_MEMORY;
    char name[64];
    snprintf(name, sizeof name, "fakecuda-%d-%d", getpid(), __sync_add_and_fetch(&files, 1));
    return add_device_memory(address, name, size, 1);
}
int cuMemFree_v2(Address address) { READY(1); return drop_device_memory(address, 0); }
int cuMemGetAddressRange_v2(Address *base, size_t *size, Address address) {
    READY(1);
    pthread_mutex_lock(&lock);
    struct Range *r = range_of(address, 1);
    if (r) *base = r->address, *size = r->size;
    pthread_mutex_unlock(&lock);
    return r ? SUCCESS : INVALID_VALUE;
}
int cuIpcGetMemHandle(Handle *handle, Address address) {
    READY(1);
    pthread_mutex_lock(&lock);
    struct Range *r = range_of(address, 1);
    const int good = r && !r->host && !r->imported && r->address == address;
    memset(handle, 0, sizeof *handle);
    if (good) memcpy(handle->bytes, r->name, sizeof r->name);
    pthread_mutex_unlock(&lock);
    return good ? SUCCESS : INVALID_VALUE;
}
/// The process that made what a handle names.
static int maker(const Handle *handle) {
    int pid = -1;
    return memchr(handle->bytes, 0, sizeof handle->bytes) && sscanf(handle->bytes, "fakecuda-%d-", &pid) == 1 ? pid : -1;
}
int cuIpcOpenMemHandle_v2(Address *address, Handle handle, unsigned flags) {
    READY(1);
    if (flags != 1 || maker(&handle) < 0) return INVALID_VALUE;
    if (maker(&handle) == getpid()) return INVALID_CONTEXT;  // its own, which it has already
    return add_device_memory(address, handle.bytes, 0, 0) ? INVALID_VALUE : SUCCESS;
}
int cuIpcCloseMemHandle(Address address) { READY(1); return drop_device_memory(address, 1); }
int cuPointerGetAttribute(void *value, int attribute, Address address) {
    READY(1);
    pthread_mutex_lock(&lock);
    struct Range *r = range_of(address, 1);
    if (r && attribute == 2) *(int *)value = r->host ? 1 : 2;  // host, device
    pthread_mutex_unlock(&lock);
    return r && attribute == 2 ? SUCCESS : INVALID_VALUE;
}

// ---- events and streams -------------------------------------------------------------------------------------------------

struct Shared { _Atomic uint64_t recorded, done; };  // of an event: how often
struct Event { struct Shared *shared; int ipc, imported; char name[64]; };

enum Kind { COPY, STORE, WAIT_VALUE, RECORD, WAIT_EVENT, CALL, FILL, ADD };
struct Work {
    enum Kind kind;
    char *to;
    const char *from;
    size_t size;
    uint64_t value;
    struct Shared *event;
    void (*call)(void *);
    void *data;
    float number;
    struct Work *next;
};
struct Stream {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct Work *first, *last;
    int busy, stops, of_thread;
    struct Stream *next;  // of all streams
};
static struct Stream the_default, *streams;
static _Thread_local struct Stream *of_this_thread;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void pause_a_little(void) { usleep(20); }
static void do_work(const struct Work *w) {
    const int delay = number("FAKECUDA_DELAY", 0);
    if (delay) usleep((useconds_t)delay);
    switch (w->kind) {
        case COPY: memcpy(w->to, w->from, w->size); break;
        case STORE: atomic_store((_Atomic uint64_t *)(void *)w->to, w->value); break;
        case WAIT_VALUE:
            while ((int64_t)(atomic_load((_Atomic uint64_t *)(void *)w->to) - w->value) < 0) pause_a_little();
            break;
        case RECORD:
            if (atomic_load(&w->event->done) < w->value) atomic_store(&w->event->done, w->value);
            break;
        case WAIT_EVENT:
            while (atomic_load(&w->event->done) < w->value) pause_a_little();
            break;
        case CALL: w->call(w->data); break;
        case FILL: memset(w->to, (int)w->value, w->size); break;
        case ADD:
            for (size_t i = 0; i < w->size / sizeof(float); ++i) ((float *)(void *)w->to)[i] += w->number;
            break;
    }
}
static void *run(void *p) {
    struct Stream *s = p;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->first && !s->stops) pthread_cond_wait(&s->changed, &s->lock);
        struct Work *w = s->first;
        if (!w) break;
        s->first = w->next;
        s->busy = 1;
        pthread_mutex_unlock(&s->lock);
        do_work(w);
        free(w);
        pthread_mutex_lock(&s->lock);
        s->busy = 0;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}
static void begin(struct Stream *s) {
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    pthread_create(&s->thread, NULL, run, s);
    pthread_mutex_lock(&lock);
    s->next = streams;
    streams = s;
    pthread_mutex_unlock(&lock);
}
static void begin_default(void) { begin(&the_default); }
/// 0 and 1: the legacy default stream; 2: that of the thread.
static struct Stream *stream_of(void *s) {
    if ((uintptr_t)s > 2) return s;
    pthread_once(&once, begin_default);
    if ((uintptr_t)s != 2) return &the_default;
    if (!of_this_thread) {
        of_this_thread = calloc(1, sizeof *of_this_thread);
        of_this_thread->of_thread = 1;
        begin(of_this_thread);
    }
    return of_this_thread;
}
static int put(struct Stream *s, struct Work w) {
    struct Work *copy = malloc(sizeof *copy);
    *copy = w;
    copy->next = NULL;
    pthread_mutex_lock(&s->lock);
    if (s->first) s->last->next = copy;
    else s->first = copy;
    s->last = copy;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return SUCCESS;
}
static int enqueue(void *stream, struct Work w) {
    struct Stream *s = stream_of(stream), *all[64], *other;
    int n = 0;
    if (s == &the_default) {  // which comes after all that the streams of threads have to do
        pthread_mutex_lock(&lock);
        for (other = streams; other && n < 64; other = other->next)
            if (other->of_thread) all[n++] = other;
        pthread_mutex_unlock(&lock);
    }
    while (n > 0) {
        struct Shared *event = calloc(1, sizeof *event);
        put(all[--n], (struct Work){.kind = RECORD, .event = event, .value = 1});
        put(s, (struct Work){.kind = WAIT_EVENT, .event = event, .value = 1});
    }
    return put(s, w);
}
int cuStreamCreate(void **stream, unsigned flags) {
    READY(1);
    if (flags > 1) return INVALID_VALUE;
    struct Stream *s = calloc(1, sizeof *s);
    begin(s);
    *stream = s;
    return SUCCESS;
}
int cuStreamQuery(void *stream) {
    READY(1);
    struct Stream *s = stream_of(stream);
    pthread_mutex_lock(&s->lock);
    const int idle = !s->first && !s->busy;
    pthread_mutex_unlock(&s->lock);
    return idle ? SUCCESS : NOT_READY;
}
static void finish(struct Stream *s) {
    pthread_mutex_lock(&s->lock);
    while (s->first || s->busy) pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
}
int cuStreamSynchronize(void *stream) {
    READY(1);
    finish(stream_of(stream));
    return SUCCESS;
}
int cuCtxSynchronize(void) {
    READY(1);
    pthread_mutex_lock(&lock);
    struct Stream *all[64], *s = streams;
    int n = 0;
    for (; s && n < 64; s = s->next) all[n++] = s;
    pthread_mutex_unlock(&lock);
    while (n > 0) finish(all[--n]);
    return SUCCESS;
}
int cuStreamDestroy_v2(void *stream) {
    READY(1);
    struct Stream *s = stream;
    if (!s) return INVALID_HANDLE;
    pthread_mutex_lock(&lock);
    struct Stream **link = &streams;
    while (*link != s) link = &(*link)->next;
    *link = s->next;
    pthread_mutex_unlock(&lock);
    pthread_mutex_lock(&s->lock);
    s->stops = 1;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);  // a driver would not wait here, but do the work as well
    free(s);
    return SUCCESS;
}

int cuEventCreate(void **event, unsigned flags) {
    READY(1);
    if (flags > 7 || ((flags & 4) && !(flags & 2))) return INVALID_VALUE;  // those for other processes have no times
    struct Event *e = calloc(1, sizeof *e);
    e->ipc = (flags & 4) != 0;
    if (e->ipc) {
        size_t size = sizeof *e->shared;
        snprintf(e->name, sizeof e->name, "fakecuda-%d-event-%d", getpid(), __sync_add_and_fetch(&files, 1));
        e->shared = (struct Shared *)(void *)map_file(e->name, &size, 1);
    } else {
        e->shared = calloc(1, sizeof *e->shared);
    }
    if (!e->shared) {
        free(e);
        return OUT_OF_MEMORY;
    }
    *event = e;
    return SUCCESS;
}
int cuEventDestroy_v2(void *event) {
    READY(1);
    struct Event *e = event;
    if (!e) return INVALID_HANDLE;
    if (e->ipc) {  // its mapping stays: streams may still use it
        char path[512];
        path_of(path, sizeof path, e->name);
        if (!e->imported) unlink(path);
    }
    free(e);
    return SUCCESS;
}
int cuEventRecord(void *event, void *stream) {
    READY(1);
    struct Event *e = event;
    if (!e) return INVALID_HANDLE;
    const uint64_t n = atomic_fetch_add(&e->shared->recorded, 1) + 1;
    return enqueue(stream, (struct Work){.kind = RECORD, .event = e->shared, .value = n});
}
int cuEventQuery(void *event) {
    READY(1);
    struct Event *e = event;
    if (!e) return INVALID_HANDLE;
    return atomic_load(&e->shared->done) >= atomic_load(&e->shared->recorded) ? SUCCESS : NOT_READY;
}
int cuEventSynchronize(void *event) {
    int result;
    while ((result = cuEventQuery(event)) == NOT_READY) pause_a_little();
    return result;
}
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    READY(1);
    struct Event *e = event;
    if (!e || flags != 0) return e ? INVALID_VALUE : INVALID_HANDLE;
    return enqueue(stream, (struct Work){.kind = WAIT_EVENT, .event = e->shared, .value = atomic_load(&e->shared->recorded)});
}
int cuIpcGetEventHandle(Handle *handle, void *event) {
    READY(1);
    struct Event *e = event;
    if (!e || !e->ipc || e->imported) return INVALID_HANDLE;
    memset(handle, 0, sizeof *handle);
    memcpy(handle->bytes, e->name, sizeof e->name);
    return SUCCESS;
}
int cuIpcOpenEventHandle(void **event, Handle handle) {
    READY(1);
    if (maker(&handle) < 0) return INVALID_HANDLE;
    if (maker(&handle) == getpid()) return INVALID_CONTEXT;
    size_t size = 0;
    char *bytes = map_file(handle.bytes, &size, 0);
    if (!bytes) return INVALID_HANDLE;
    struct Event *e = calloc(1, sizeof *e);
    e->shared = (struct Shared *)(void *)bytes;
    e->ipc = e->imported = 1;
    *event = e;
    return SUCCESS;
}

static int copy(Address to, Address from, size_t size, void *stream, char *host_to, const char *host_from) {
    READY(1);
    char *t = host_to ? host_to : bytes_at(to, size, 1);
    const char *f = host_from ? host_from : bytes_at(from, size, 0);
    return t && f ? enqueue(stream, (struct Work){.kind = COPY, .to = t, .from = f, .size = size}) : INVALID_VALUE;
}
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, void *stream) { return copy(to, 0, size, stream, NULL, from); }
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, void *stream) { return copy(0, from, size, stream, to, NULL); }
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, void *stream) { return copy(to, from, size, stream, NULL, NULL); }
int cuMemsetD8Async(Address to, unsigned char value, size_t size, void *stream) {
    READY(1);
    char *t = bytes_at(to, size, 1);
    return t ? enqueue(stream, (struct Work){.kind = FILL, .to = t, .size = size, .value = value}) : INVALID_VALUE;
}
static int on_word(enum Kind kind, void *stream, Address address, uint64_t value, unsigned flags) {
    READY(1);
    int values = 0;
    cuDeviceGetAttribute(&values, STREAM_VALUES, 0);
    if (!values) return NOT_SUPPORTED;
    char *word = address % 8 == 0 ? bytes_at(address, 8, kind == STORE) : NULL;
    return word && flags == 0 ? enqueue(stream, (struct Work){.kind = kind, .to = word, .value = value}) : INVALID_VALUE;
}
int cuStreamWriteValue64_v2(void *stream, Address address, uint64_t value, unsigned flags) { return on_word(STORE, stream, address, value, flags); }
int cuStreamWaitValue64_v2(void *stream, Address address, uint64_t value, unsigned flags) { return on_word(WAIT_VALUE, stream, address, value, flags); }
int cuLaunchHostFunc(void *stream, void (*call)(void *), void *data) {
    READY(1);
    return call ? enqueue(stream, (struct Work){.kind = CALL, .call = call, .data = data}) : INVALID_VALUE;
}

int cuGetErrorName(int error, const char **name) {
    static const struct { int error; const char *name; } names[] = {
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"}, {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"}, {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
        {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"}, {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"}, {NOT_READY, "CUDA_ERROR_NOT_READY"},
        {ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"},
        {NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"}, {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; ++i)
        if (names[i].error == error) return *name = names[i].name, SUCCESS;
    return INVALID_VALUE;
}

// ---- for tests alone ----------------------------------------------------------------------------------------------------

/// A kernel that adds to floats.
int fakeAdd(void *stream, Address address, size_t floats, float number_to_add) {
    READY(1);
    char *t = bytes_at(address, floats * sizeof(float), 1);
    return t ? enqueue(stream, (struct Work){.kind = ADD, .to = t, .size = floats * sizeof(float), .number = number_to_add}) : INVALID_VALUE;
}
static void wait_for_file(void *path) {
    while (access(path, F_OK) != 0) pause_a_little();
    free(path);
}
/// A kernel that runs until a file is there.
int fakeWaitForFile(void *stream, const char *path) {
    READY(1);
    return enqueue(stream, (struct Work){.kind = CALL, .call = wait_for_file, .data = strdup(path)});
}
/// Registered ranges and allocations that are left.
int fakeLeft(void) { return count_of_ranges; }
int fakeRetained(void) { return retained; }

#include "fakecuda_kernels.h"
