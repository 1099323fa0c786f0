// A test is a sentence and a block. A check that fails says where, what it got and what it wanted. All files of tests
// make one program, so that what they share is compiled once; `core_tests lane_test` runs those of lane_test.cpp.
#pragma once

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <map>
#include <source_location>
#include <sstream>
#include <string>
#include <type_traits>

namespace check {

struct Failure : std::exception {};

struct Test {
    const char* sentence;
    void (*body)();
};

inline const char* running = "";  // for the watchdog

template <class T>
std::string text(const T& v) {
    if constexpr (std::is_enum_v<T>) {
        return std::to_string(static_cast<long long>(v));
    } else if constexpr (std::is_same_v<T, bool>) {
        return v ? "true" : "false";
    } else {
        std::ostringstream s;
        s << v;
        return s.str();
    }
}

[[noreturn]] inline void fail(const std::string& what, std::source_location at = std::source_location::current()) {
    std::fprintf(stderr, "%s:%u: %s\n", at.file_name(), static_cast<unsigned>(at.line()), what.c_str());
    std::fflush(stderr);
    throw Failure{};
}

template <class A, class B>
void equal(const char* expression, const A& got, const B& want,
           std::source_location at = std::source_location::current()) {
    if (!(got == want)) fail(std::string(expression) + " is " + text(got) + ", expected " + text(want), at);
}

/// Ends the program when it hangs: alarms are not inherited by children, so each process sets its own.
inline void watchdog(unsigned seconds) {
    ::signal(SIGALRM, [](int) {
        const char* parts[] = {"watchdog: hangs in: ", running, "\n"};
        for (const char* p : parts) (void)!::write(2, p, std::strlen(p));
        ::_exit(124);
    });
    ::alarm(seconds);
}

inline int run(std::initializer_list<Test> tests, unsigned seconds = 50) {
    int failed = 0;
    for (const Test& t : tests) {
        running = t.sentence;
        watchdog(seconds);
        bool ok = false;
        try {
            t.body();
            ok = true;
        } catch (const Failure&) {
        } catch (const std::exception& e) {
            std::fprintf(stderr, "unexpected exception: %s\n", e.what());
        }
        std::printf("%s %s\n", ok ? "ok  " : "FAIL", t.sentence);
        std::fflush(stdout);
        failed += !ok;
    }
    return failed != 0;
}

using Program = int (*)();
inline std::map<std::string, Program>& programs() {
    static std::map<std::string, Program> all;  // by the name of their file
    return all;
}

/// The body of a thread: a failed check ends the program.
template <class Body>
void guarded(Body&& body) noexcept {
    try {
        body();
        return;
    } catch (const Failure&) {
    } catch (const std::exception& e) {
        std::fprintf(stderr, "unexpected exception in a thread: %s\n", e.what());
    }
    std::printf("FAIL %s\n", running);
    std::fflush(stdout);
    ::_exit(1);
}

}  // namespace check

/// What a file of tests does when it is run; the name is the file's.
#define TESTS(name)                                                                       \
    static int name();                                                                    \
    static const bool name##_is_known = ::check::programs().emplace(#name, name).second;  \
    static int name()
#define CHECK(x) ((x) ? void() : ::check::fail("not true: " #x))
#define CHECK_EQ(got, want) ::check::equal(#got, (got), (want))
/// The block throws psyne::Error of this kind, and its text holds `part`.
#define CHECK_THROWS(kind, part, ...)                                                                     \
    do {                                                                                                  \
        bool threw_ = false;                                                                              \
        try {                                                                                             \
            __VA_ARGS__;                                                                                  \
        } catch (const ::psyne::Error& e_) {                                                              \
            threw_ = true;                                                                                \
            CHECK_EQ(e_.code, ::psyne::Errc::kind);                                                       \
            if (std::string(e_.what()).find(part) == std::string::npos)                                   \
                ::check::fail(std::string("the error does not say '") + (part) + "': " + e_.what());      \
        }                                                                                                 \
        if (!threw_) ::check::fail("no error from " #__VA_ARGS__);                                        \
    } while (false)
