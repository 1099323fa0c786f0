// A stand-in for the Objective-C runtime, with the few classes of Foundation that psyne uses. Objects are counted; one
// that was released stays, and ends the process when it is used again, as does a message that its class does not know.
#pragma once
#define _GNU_SOURCE
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Object *id;
typedef const char *SEL;
typedef void (*IMP)(void);
typedef struct { const char *selector; IMP call; } Method;
typedef struct Class {
    struct Class *isa;
    uint32_t mark;
    _Atomic int retains;
    const char *name;
    const Method *methods;
    void (*end)(id);
} Class;
struct Object { Class *isa; uint32_t mark; _Atomic int retains; };

enum { ALIVE = 0x0b1ec7, DEAD = 0xdead };
#define METHOD(name, call) {name, (IMP)(void (*)(void))(call)}

static _Atomic int living;
static pid_t process;

static void die(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("fakemetal: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    abort();
}
static size_t number(const char *name, size_t usual) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 0) : usual;
}

// ---- Objective-C ----------------------------------------------------------------------------------------------------

static Class meta = {&meta, ALIVE, 1, "NSObject", NULL, NULL};

static void *make(Class *class, size_t size) {
    id o = calloc(1, size);
    o->isa = class;
    o->mark = ALIVE;
    o->retains = 1;
    atomic_fetch_add(&living, 1);
    return o;
}
static void check(const void *p, const char *what) {
    const struct Object *o = p;
    if (o->mark == DEAD) die("%s of a %s that was released", what, o->isa->name);
    if (o->mark != ALIVE) die("%s of what is no object", what);
}
void *objc_retain(void *o) {
    if (!o) return o;
    check(o, "retain");
    atomic_fetch_add(&((id)o)->retains, 1);
    return o;
}
void objc_release(void *p) {
    id o = p;
    if (!o) return;
    check(o, "release");
    if (atomic_fetch_sub(&o->retains, 1) != 1) return;
    if (o->isa->end) o->isa->end(o);
    o->mark = DEAD;  // its memory stays, so that whoever uses it is found
    atomic_fetch_sub(&living, 1);
}
static _Thread_local void *pooled[1024];
static _Thread_local size_t in_pool, pools;
void *objc_autoreleasePoolPush(void) { ++pools; return (void *)(in_pool + 1); }
void objc_autoreleasePoolPop(void *pool) {
    if (pools == 0 || (size_t)pool - 1 > in_pool) die("a pool that this thread does not have");
    while (in_pool > (size_t)pool - 1) objc_release(pooled[--in_pool]);
    --pools;
}
static void *autoreleased(void *o) {
    if (pools == 0) die("a %s is autoreleased without a pool", ((id)o)->isa->name);
    if (in_pool == 1024) die("a pool of 1024 objects");
    return pooled[in_pool++] = o;
}

static const char *selectors[256];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
SEL sel_registerName(const char *name) {
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < 255 && selectors[i] && strcmp(selectors[i], name) != 0) ++i;
    if (!selectors[i]) selectors[i] = strdup(name);
    pthread_mutex_unlock(&lock);
    return selectors[i];
}
static void *nothing(void) { return NULL; }

__attribute__((visibility("hidden"), used)) IMP implementation_of(id receiver, SEL selector) {
    if (process && process != getpid()) die("%s in a forked child", selector);
    if (!receiver) return (IMP)(void (*)(void))nothing;  // nil answers all
    check(receiver, selector);
    const Class *c = receiver->isa == &meta ? (const Class *)receiver : receiver->isa;
    for (const Method *m = c->methods; m->selector; ++m)
        if (strcmp(m->selector, selector) == 0) return m->call;
    die("-[%s %s]: unrecognized selector", c->name, selector);
    return NULL;
}

// As in the real one: the method is found, and gets the arguments as they were passed, whatever they are.
#if defined(__x86_64__)
__asm__(".text\n.globl objc_msgSend\n.type objc_msgSend, @function\nobjc_msgSend:\n"
        "  pushq %rbp\n  movq %rsp, %rbp\n"
        "  pushq %rdi\n  pushq %rsi\n  pushq %rdx\n  pushq %rcx\n  pushq %r8\n  pushq %r9\n"
        "  call implementation_of\n  movq %rax, %r11\n"
        "  popq %r9\n  popq %r8\n  popq %rcx\n  popq %rdx\n  popq %rsi\n  popq %rdi\n"
        "  popq %rbp\n  jmp *%r11\n.size objc_msgSend, . - objc_msgSend\n");
#elif defined(__aarch64__)
__asm__(".text\n.globl objc_msgSend\n.type objc_msgSend, %function\nobjc_msgSend:\n"
        "  stp x29, x30, [sp, #-16]!\n  mov x29, sp\n"
        "  stp x0, x1, [sp, #-16]!\n  stp x2, x3, [sp, #-16]!\n  stp x4, x5, [sp, #-16]!\n  stp x6, x7, [sp, #-16]!\n"
        "  bl implementation_of\n  mov x16, x0\n"
        "  ldp x6, x7, [sp], #16\n  ldp x4, x5, [sp], #16\n  ldp x2, x3, [sp], #16\n  ldp x0, x1, [sp], #16\n"
        "  ldp x29, x30, [sp], #16\n  br x16\n.size objc_msgSend, . - objc_msgSend\n");
#else
#error "the stand-in knows x86-64 and aarch64"
#endif

// ---- Foundation -----------------------------------------------------------------------------------------------------

typedef struct { struct Object head; char *text; } String;  // an error, too
typedef struct { struct Object head; size_t count; void *items[64]; } Array;

static const char *text_of(String *s, SEL c) { (void)c; return s->text; }
static void end_string(id o) { free(((String *)o)->text); }
static void *string_with(void *class, SEL c, const char *text);
static const Method string_methods[] = {
    METHOD("stringWithUTF8String:", string_with), METHOD("UTF8String", text_of), {0}};
static Class string_class = {&meta, ALIVE, 1, "NSString", string_methods, end_string};
static String *string(Class *class, const char *text) {
    String *s = make(class, sizeof *s);
    s->text = strdup(text);
    return s;
}
static void *string_with(void *class, SEL c, const char *text) {
    (void)class, (void)c;
    return autoreleased(string(&string_class, text));
}

static void *described(String *e, SEL c) { (void)c; return autoreleased(string(&string_class, e->text)); }
static const Method error_methods[] = {METHOD("localizedDescription", described), {0}};
static Class error_class = {&meta, ALIVE, 1, "NSError", error_methods, end_string};
static void fail(void **error, const char *format, const char *what) {
    char text[512];
    snprintf(text, sizeof text, format, what);
    if (error) *error = autoreleased(string(&error_class, text));
}

static size_t count_of(Array *a, SEL c) { (void)c; return a->count; }
static void *item_of(Array *a, SEL c, size_t i) {
    (void)c;
    if (i >= a->count) die("item %zu of %zu", i, a->count);
    return a->items[i];
}
static void end_array(id o) { for (Array *a = (Array *)o; a->count; objc_release(a->items[--a->count])) {} }
static const Method array_methods[] = {METHOD("count", count_of), METHOD("objectAtIndex:", item_of), {0}};
static Class array_class = {&meta, ALIVE, 1, "NSArray", array_methods, end_array};
static Array *array(void) { return make(&array_class, sizeof(Array)); }

void *objc_getClass(const char *name) { return strcmp(name, "NSString") == 0 ? &string_class : NULL; }
