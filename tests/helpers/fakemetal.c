// A stand-in for Metal: the classes and calls that psyne uses, which refuse what Metal refuses. It says nothing of a real
// GPU. Kernels are written twice: kernels/kernels.metal, and here in C.
//
//   the GPU       a thread that takes committed work in order, and waits FAKEMETAL_DELAY us before each piece
//   FAKEMETAL_…   DEVICES, MOST (bytes of a buffer), FAILS, REFUSES (1: no buffer over memory of others, 2: an empty one)
#include "fakeobjc.h"

typedef struct { size_t width, height, depth; } Size;
enum { NOT_ENQUEUED = 0, COMMITTED = 2, COMPLETED = 4, FAILED = 5 };
enum { SHARED = 0, MOST_BUFFERS = 31, MOST_BYTES = 4096, MOST_THREADS = 1024, WIDTH = 32, MOST = 16 };

// ---- memory ---------------------------------------------------------------------------------------------------------

typedef struct { struct Object head; char *bytes; size_t size; int others; } Buffer;  // others: their memory

/// 0: not mapped, 1: to read, 2: to write; as the kernel says.
static int access_to(const void *p, size_t size) {
    const uintptr_t from = (uintptr_t)p;
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
static void end_buffer(id o) {
    Buffer *b = (Buffer *)o;
    if (!b->others) free(b->bytes);
    else if (b->size && access_to(b->bytes, b->size) == 0) die("memory was unmapped before its buffer was released");
}
static void *contents(Buffer *b, SEL c) { (void)c; return b->bytes; }
static size_t length(Buffer *b, SEL c) { (void)c; return b->size; }
static const Method buffer_methods[] = {METHOD("contents", contents), METHOD("length", length), {0}};
static Class buffer_class = {&meta, ALIVE, 1, "MTLBuffer", buffer_methods, end_buffer};

static size_t most_bytes(id d, SEL c) { (void)d, (void)c; return number("FAKEMETAL_MOST", 1u << 31); }
static void *buffer_with(char *bytes, size_t size, int others) {
    Buffer *b = make(&buffer_class, sizeof *b);
    b->bytes = bytes, b->size = size, b->others = others;
    return b;
}
static void *new_buffer(id d, SEL c, size_t size, size_t options) {
    if (options != SHARED) die("options %zu", options);
    return size == 0 || size > most_bytes(d, c) ? NULL : buffer_with(calloc(1, size), size, 0);
}
static void *new_buffer_over(id d, SEL c, void *bytes, size_t size, size_t options, void *deallocator) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), refuses = number("FAKEMETAL_REFUSES", 0);
    if (options != SHARED || deallocator) die("options %zu, deallocator %p", options, deallocator);
    if (size == 0 || size > most_bytes(d, c) || size % page || (uintptr_t)bytes % page || refuses == 1) return NULL;
    if (access_to(bytes, size) == 0) return NULL;
    return refuses == 2 ? buffer_with(NULL, 0, 1) : buffer_with(bytes, size, 1);
}

// ---- kernels --------------------------------------------------------------------------------------------------------

typedef struct { char *at; size_t size; } Bound;
typedef struct { size_t at[3], size[3], group[3]; } Thread;

static void add_one(const Bound *b, const Thread *t) { ((float *)(void *)b[0].at)[t->at[0]] += 1; }
static void scale(const Bound *b, const Thread *t) {
    const float *by = (const float *)(const void *)b[1].at;
    float *x = (float *)(void *)b[0].at + t->at[0];
    *x = *x * by[0] + by[1];
}
static void sum(const Bound *b, const Thread *t) {
    const float *one = (const float *)(const void *)b[1].at, *other = (const float *)(const void *)b[2].at;
    ((float *)(void *)b[0].at)[t->at[0]] = one[t->at[0]] + other[t->at[0]];
}
static void place(const Bound *b, const Thread *t) {
    ((uint32_t *)(void *)b[0].at)[(t->at[2] * t->size[1] + t->at[1]) * t->size[0] + t->at[0]] =
        (uint32_t)(1000 * t->group[2] + 100 * t->group[1] + 10 * t->group[0] + t->at[2]);
}
static const struct { const char *name; void (*run)(const Bound *, const Thread *); } kernels[] = {
    {"add_one", add_one}, {"scale", scale}, {"sum", sum}, {"place", place}, {"gap", scale}, {"paint", add_one}};

typedef struct { struct Object head; char *source; } Library;
typedef struct { struct Object head; char name[64]; char *signature; } Function;
typedef struct { struct Object head; size_t type, access, index, item; } Binding;
typedef struct { struct Object head; Array *bindings; int kernel; } Pipeline;  // its reflection, too

static void end_library(id o) { free(((Library *)o)->source); }
/// The arguments of a kernel in a source, without the last ')'; null if there is none.
static char *signature_of(const char *source, const char *name) {
    char head[96];
    snprintf(head, sizeof head, "kernel void %s(", name);
    const char *begin = strstr(source, head), *end = begin ? begin + strlen(head) : NULL;
    for (int depth = 1; end && *end; ++end)
        if ((depth += (*end == '(') - (*end == ')')) == 0) break;
    return end && *end ? strndup(begin + strlen(head), (size_t)(end - begin) - strlen(head)) : NULL;
}
static Function *function_of(const char *source, const char *name);
static void *new_function(Library *l, SEL c, String *name) {
    (void)c;
    check(name, "the name");
    return function_of(l->source, name->text);
}
static void *function_names(Library *l, SEL c) {
    (void)c;
    Array *names = array();
    const char *at = l->source;
    while ((at = strstr(at, "kernel void ")) && names->count < MOST) {
        char name[64] = "";
        sscanf(at += 12, "%63[A-Za-z0-9_]", name);
        names->items[names->count++] = string(&string_class, name);
    }
    return autoreleased(names);
}
static const Method library_methods[] = {
    METHOD("newFunctionWithName:", new_function), METHOD("functionNames", function_names), {0}};
static Class library_class = {&meta, ALIVE, 1, "MTLLibrary", library_methods, end_library};
static void *new_library(id d, SEL c, String *source, void *options, void **error) {
    (void)d, (void)c;
    check(source, "the source");
    if (options) die("options of a library");
    const char *wrong = strstr(source->text, "#error ");
    if (wrong) return fail(error, "program_source:1:2: error: %s", wrong + 7), NULL;
    Library *l = make(&library_class, sizeof *l);
    l->source = strdup(source->text);
    return l;
}
static void end_function(id o) { free(((Function *)o)->signature); }
static const Method function_methods[] = {{0}};
static Class function_class = {&meta, ALIVE, 1, "MTLFunction", function_methods, end_function};
static Function *function_of(const char *source, const char *name) {
    char *signature = signature_of(source, name);
    if (!signature) return NULL;
    Function *f = make(&function_class, sizeof *f);
    snprintf(f->name, sizeof f->name, "%s", name);
    f->signature = signature;
    return f;
}

static size_t type_of(Binding *b, SEL c) { (void)c; return b->type; }
static size_t access_of(Binding *b, SEL c) { (void)c; return b->access; }
static size_t index_of(Binding *b, SEL c) { (void)c; return b->index; }
static size_t item_size(Binding *b, SEL c) {
    if (b->type) die("%s of no buffer", c);
    return b->item;
}
static const Method binding_methods[] = {
    METHOD("type", type_of), METHOD("access", access_of), METHOD("index", index_of),
    METHOD("bufferDataSize", item_size), {0}};
static Class binding_class = {&meta, ALIVE, 1, "MTLBinding", binding_methods, NULL};
static void *bindings_of(Pipeline *p, SEL c) { (void)c; return autoreleased(objc_retain(p->bindings)); }
static size_t most_threads(Pipeline *p, SEL c) { (void)p, (void)c; return MOST_THREADS; }
static size_t width(Pipeline *p, SEL c) { (void)p, (void)c; return WIDTH; }
static void end_pipeline(id o) { objc_release(((Pipeline *)o)->bindings); }
static const Method pipeline_methods[] = {
    METHOD("maxTotalThreadsPerThreadgroup", most_threads), METHOD("threadExecutionWidth", width), {0}};
static const Method reflection_methods[] = {METHOD("bindings", bindings_of), {0}};
static Class pipeline_class = {&meta, ALIVE, 1, "MTLComputePipelineState", pipeline_methods, end_pipeline};
static Class reflection_class = {&meta, ALIVE, 1, "MTLComputePipelineReflection", reflection_methods, end_pipeline};

/// What the compiler says of one argument; null for one that the launch does not bind.
static Binding *binding_of(const char *argument) {
    const char *names[] = {"[[buffer(", "[[threadgroup(", "[[texture("};
    for (size_t type = 0; type < 3; ++type) {
        const char *at = strstr(argument, names[type]);
        if (!at) continue;
        Binding *b = make(&binding_class, sizeof *b);
        b->type = type;
        b->index = strtoul(at + strlen(names[type]), NULL, 10);
        b->access = !strstr(argument, "const");  // `constant`, too
        b->item = strstr(argument, "float4") ? 16 : strstr(argument, "float2") ? 8 : 4;
        return b;
    }
    return NULL;
}
static void *new_pipeline(id d, SEL c, Function *f, size_t options, void **reflection, void **error) {
    (void)d, (void)c;
    check(f, "the function");
    size_t k = 0;
    while (k < sizeof kernels / sizeof *kernels && strcmp(kernels[k].name, f->name) != 0) ++k;
    if (k == sizeof kernels / sizeof *kernels) return fail(error, "the stand-in has no kernel %s", f->name), NULL;
    Array *bindings = array();
    char *rest = NULL, *copy = strdup(f->signature);
    for (char *part = strtok_r(copy, ",", &rest); part; part = strtok_r(NULL, ",", &rest)) {
        Binding *b = binding_of(part);
        if (b) bindings->items[bindings->count++] = b;
    }
    free(copy);
    Pipeline *p = make(&pipeline_class, sizeof *p), *told = make(&reflection_class, sizeof *told);
    p->kernel = (int)k;
    p->bindings = bindings;
    told->bindings = objc_retain(bindings);
    if (options & 1) *reflection = autoreleased(told);
    else objc_release(told);
    return p;
}

// ---- work -----------------------------------------------------------------------------------------------------------

typedef struct { Buffer *buffer; size_t offset; char *bytes; size_t size; } Argument;
typedef struct { Pipeline *pipeline; Argument arguments[MOST_BUFFERS]; Size groups, threads; } Launch;
typedef struct Command {
    struct Object head;
    id queue;
    _Atomic int status;
    String *error;
    int open;  // an encoder is
    Launch launches[MOST];
    int count;
    struct Command *next;
} Command;
typedef struct { struct Object head; Command *command; Launch now; int ended; } Encoder;

static void let_go(Launch *l) {
    objc_release(l->pipeline);
    for (int i = 0; i < MOST_BUFFERS; ++i) {
        objc_release(l->arguments[i].buffer);
        free(l->arguments[i].bytes);
    }
}
static Launch copy_of(const Launch *l) {
    Launch copy = *l;
    objc_retain(copy.pipeline);
    for (int i = 0; i < MOST_BUFFERS; ++i) {
        Argument *a = &copy.arguments[i];
        objc_retain(a->buffer);
        if (a->bytes) a->bytes = memcpy(malloc(a->size), a->bytes, a->size);
    }
    return copy;
}
static void end_encoder(id o) {
    Encoder *e = (Encoder *)o;
    if (!e->ended) die("an encoder was released before endEncoding");
    let_go(&e->now);
    objc_release(e->command);
}
static Encoder *open_(Encoder *e, SEL c) {
    if (e->ended) die("%s after endEncoding", c);
    return e;
}
static void set_pipeline(Encoder *e, SEL c, Pipeline *p) {
    check(p, "the pipeline");
    objc_retain(p);
    objc_release(open_(e, c)->now.pipeline);
    e->now.pipeline = p;
}
static Argument *argument_of(Encoder *e, SEL c, size_t i) {
    if (i >= MOST_BUFFERS) die("buffer %zu", i);
    Argument *a = &open_(e, c)->now.arguments[i];
    objc_release(a->buffer);
    free(a->bytes);
    memset(a, 0, sizeof *a);
    return a;
}
static void set_buffer(Encoder *e, SEL c, Buffer *b, size_t offset, size_t i) {
    check(b, "the buffer");
    if (offset >= b->size) die("offset %zu in a buffer of %zu bytes", offset, b->size);
    Argument *a = argument_of(e, c, i);
    a->buffer = objc_retain(b);
    a->offset = offset;
    a->size = b->size - offset;
}
static void set_bytes(Encoder *e, SEL c, const void *bytes, size_t size, size_t i) {
    if (size == 0 || size > MOST_BYTES) die("setBytes of %zu bytes", size);
    Argument *a = argument_of(e, c, i);
    a->bytes = memcpy(malloc(size), bytes, size);
    a->size = size;
}
static void dispatch(Encoder *e, SEL c, Size groups, Size threads) {
    const Launch *now = &open_(e, c)->now;
    const size_t each = threads.width * threads.height * threads.depth;
    if (!now->pipeline) die("a launch without a pipeline");
    if (groups.width * groups.height * groups.depth == 0) die("no groups");
    if (each == 0 || each > MOST_THREADS) die("%zu threads in a group", each);
    for (size_t i = 0; i < now->pipeline->bindings->count; ++i) {
        const Binding *b = now->pipeline->bindings->items[i];
        const Argument *a = &now->arguments[b->index];
        if (b->type) die("the stand-in binds buffers only");
        if (!a->size) die("buffer %zu was not set", b->index);
        if (a->offset % b->item) die("offset %zu of buffer %zu, of items of %zu bytes", a->offset, b->index, b->item);
        if (a->bytes && a->size < b->item) die("%zu bytes where the kernel reads %zu", a->size, b->item);
    }
    if (e->command->count == MOST) die("%d launches in a command buffer", MOST);
    Launch *l = &e->command->launches[e->command->count++];
    *l = copy_of(now);
    l->groups = groups, l->threads = threads;
}
static void end_encoding(Encoder *e, SEL c) {
    open_(e, c)->ended = 1;
    e->command->open = 0;
}
static const Method encoder_methods[] = {
    METHOD("setComputePipelineState:", set_pipeline), METHOD("setBuffer:offset:atIndex:", set_buffer),
    METHOD("setBytes:length:atIndex:", set_bytes), METHOD("dispatchThreadgroups:threadsPerThreadgroup:", dispatch),
    METHOD("endEncoding", end_encoding), {0}};
static Class encoder_class = {&meta, ALIVE, 1, "MTLComputeCommandEncoder", encoder_methods, end_encoder};

/// Null, or what went wrong.
static const char *run(const Launch *l) {
    Bound bound[MOST_BUFFERS] = {{0}};
    for (size_t i = 0; i < l->pipeline->bindings->count; ++i) {
        const Binding *b = l->pipeline->bindings->items[i];
        const Argument *a = &l->arguments[b->index];
        bound[b->index] = (Bound){a->buffer ? a->buffer->bytes + a->offset : a->bytes, a->size};
        if (access_to(bound[b->index].at, a->size) < (b->access ? 2 : 1)) return "Caused GPU Address Fault Error";
    }
    const size_t groups[3] = {l->groups.width, l->groups.height, l->groups.depth};
    const size_t threads[3] = {l->threads.width, l->threads.height, l->threads.depth};
    Thread t;
    for (int i = 0; i < 3; ++i) t.size[i] = groups[i] * threads[i];
    for (t.at[2] = 0; t.at[2] < t.size[2]; ++t.at[2])
        for (t.at[1] = 0; t.at[1] < t.size[1]; ++t.at[1])
            for (t.at[0] = 0; t.at[0] < t.size[0]; ++t.at[0]) {
                for (int i = 0; i < 3; ++i) t.group[i] = t.at[i] / threads[i];
                kernels[l->pipeline->kernel].run(bound, &t);
            }
    return NULL;
}
static Command *first, *last;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *gpu(void *unused) {
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&lock);
        while (!first) pthread_cond_wait(&changed, &lock);
        Command *c = first;
        first = c->next;
        pthread_mutex_unlock(&lock);
        const size_t delay = number("FAKEMETAL_DELAY", 0);
        if (delay) usleep((useconds_t)delay);
        const char *wrong = number("FAKEMETAL_FAILS", 0) ? "the stand-in was told to fail" : NULL;
        for (int i = 0; i < c->count; ++i) {
            if (!wrong) wrong = run(&c->launches[i]);
            let_go(&c->launches[i]);
        }
        c->count = 0;
        if (wrong) c->error = string(&error_class, wrong);
        pthread_mutex_lock(&lock);
        objc_release(c);  // before it is told, so that whoever counts afterwards finds nothing
        c->status = wrong ? FAILED : COMPLETED;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}
static void begin_gpu(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, gpu, NULL);
    pthread_detach(thread);
}
static void commit(Command *c, SEL s) {
    (void)s;
    if (c->status != NOT_ENQUEUED || c->open) die(c->open ? "commit before endEncoding" : "commit for the second time");
    pthread_once(&once, begin_gpu);
    objc_retain(c);
    pthread_mutex_lock(&lock);
    c->status = COMMITTED;
    c->next = NULL;
    if (first) last->next = c;
    else first = c;
    last = c;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}
static void wait_for(Command *c, SEL s) {
    (void)s;
    if (c->status == NOT_ENQUEUED) die("waitUntilCompleted before commit");
    pthread_mutex_lock(&lock);
    while (c->status < COMPLETED) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}
static size_t status_of(Command *c, SEL s) { (void)s; return (size_t)c->status; }
static void *error_of(Command *c, SEL s) { (void)s; return c->error ? autoreleased(objc_retain(c->error)) : NULL; }
static void *encoder_of(Command *c, SEL s) {
    (void)s;
    if (c->open || c->status != NOT_ENQUEUED) die("a second encoder");
    Encoder *e = make(&encoder_class, sizeof *e);
    e->command = objc_retain(c);
    c->open = 1;
    return autoreleased(e);
}
static void end_command(id o) {
    Command *c = (Command *)o;
    while (c->count) let_go(&c->launches[--c->count]);
    objc_release(c->error);
    objc_release(c->queue);
}
static const Method command_methods[] = {
    METHOD("computeCommandEncoder", encoder_of), METHOD("commit", commit), METHOD("waitUntilCompleted", wait_for),
    METHOD("status", status_of), METHOD("error", error_of), {0}};
static Class command_class = {&meta, ALIVE, 1, "MTLCommandBuffer", command_methods, end_command};
static void *command_buffer(id queue, SEL c) {
    (void)c;
    Command *made = make(&command_class, sizeof *made);
    made->queue = objc_retain(queue);
    return autoreleased(made);
}
static const Method queue_methods[] = {METHOD("commandBuffer", command_buffer), {0}};
static Class queue_class = {&meta, ALIVE, 1, "MTLCommandQueue", queue_methods, NULL};
static void *new_queue(id d, SEL c) { (void)d, (void)c; return make(&queue_class, sizeof(struct Object)); }

// ---- devices --------------------------------------------------------------------------------------------------------

static uint64_t registry_number(id d, SEL c);
static void *name_of(id d, SEL c) {
    char text[32];
    snprintf(text, sizeof text, "stand-in %d", (int)registry_number(d, c) - 100);
    return autoreleased(string(&string_class, text));
}
static _Bool unified(id d, SEL c) { (void)d, (void)c; return 1; }
static const Method device_methods[] = {
    METHOD("name", name_of), METHOD("registryID", registry_number), METHOD("hasUnifiedMemory", unified),
    METHOD("maxBufferLength", most_bytes), METHOD("newCommandQueue", new_queue),
    METHOD("newBufferWithLength:options:", new_buffer),
    METHOD("newBufferWithBytesNoCopy:length:options:deallocator:", new_buffer_over),
    METHOD("newLibraryWithSource:options:error:", new_library),
    METHOD("newComputePipelineStateWithFunction:options:reflection:error:", new_pipeline), {0}};
static Class device_class = {&meta, ALIVE, 1, "MTLDevice", device_methods, NULL};
// The system has them for ever. The default one is the first, by another object.
static struct Object devices[3] = {{&device_class, ALIVE, 1}, {&device_class, ALIVE, 1}, {&device_class, ALIVE, 1}};
static uint64_t registry_number(id d, SEL c) { (void)c; return 100 + (uint64_t)(d - devices) % 2; }

void *MTLCreateSystemDefaultDevice(void) {
    process = getpid();
    return number("FAKEMETAL_DEVICES", 1) ? objc_retain(&devices[2]) : NULL;
}
void *MTLCopyAllDevices(void) {
    Array *all = array();
    while (all->count < number("FAKEMETAL_DEVICES", 1) && all->count < 2) {  // the default one is not the first
        all->items[all->count] = objc_retain(&devices[number("FAKEMETAL_DEVICES", 1) - 1 - all->count]);
        ++all->count;
    }
    return all;
}

// ---- for tests alone ------------------------------------------------------------------------------------------------

/// Objects that nobody has released, and references to devices.
int fakeLiving(void) { return living + devices[0].retains + devices[1].retains + devices[2].retains - 3; }
