// ThreadSanitizer knows memory by address. Ends of one process map a file once each, so it would see no two threads
// meet: in its build all ends share one mapping of a file, and the file system orders what the kernel orders.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#if defined(__SANITIZE_THREAD__)

namespace one_mapping {

struct Entry {
    void* data;
    bool writable;
    uint64_t users;
};
using Key = std::tuple<dev_t, ino_t, off_t, size_t>;

inline std::mutex& lock() {
    static std::mutex m;
    return m;
}
inline std::map<Key, Entry>& entries() {
    static std::map<Key, Entry> all;
    return all;
}

inline void* real_mmap(void* at, size_t size, int prot, int flags, int fd, off_t offset) {
    return ::mmap(at, size, prot, flags, fd, offset);
}
inline int real_munmap(void* at, size_t size) { return ::munmap(at, size); }

template <class... A>
auto ordered(auto call, A... a) {
    std::lock_guard guard(lock());
    return call(a...);
}

}  // namespace one_mapping

inline void* psyne_test_mmap(void* at, size_t size, int prot, int flags, int fd, off_t offset) {
    using namespace one_mapping;
    std::lock_guard guard(lock());
    struct stat st {};
    if (::fstat(fd, &st) != 0) return MAP_FAILED;
    const bool writable = (prot & PROT_WRITE) != 0;
    if (auto it = entries().find({st.st_dev, st.st_ino, offset, size}); it != entries().end()) {
        if (it->second.writable < writable) return real_mmap(at, size, prot, flags, fd, offset);
        ++it->second.users;
        return it->second.data;
    }
    void* data = real_mmap(at, size, prot, flags, fd, offset);
    if (data != MAP_FAILED) entries()[{st.st_dev, st.st_ino, offset, size}] = {data, writable, 1};
    return data;
}

inline int psyne_test_munmap(void* data, size_t size) {
    using namespace one_mapping;
    std::lock_guard guard(lock());
    for (auto it = entries().begin(); it != entries().end(); ++it) {
        if (it->second.data != data) continue;
        if (--it->second.users != 0) return 0;
        entries().erase(it);
        break;
    }
    return real_munmap(data, size);
}

inline int psyne_test_openat(int dir, const char* path, int flags, int mode = 0) {
    return one_mapping::ordered([](int d, const char* p, int f, int m) { return ::openat(d, p, f, m); }, dir, path, flags,
                                mode);
}
inline int psyne_test_linkat(int from, const char* path, int to, const char* name, int flags) {
    return one_mapping::ordered(::linkat, from, path, to, name, flags);
}
template <class Arg>
int psyne_test_fcntl(int fd, int command, Arg arg) {
    return one_mapping::ordered([](int f, int c, Arg a) { return ::fcntl(f, c, a); }, fd, command, arg);
}

#define mmap(...) psyne_test_mmap(__VA_ARGS__)
#define munmap(...) psyne_test_munmap(__VA_ARGS__)
#define openat(...) psyne_test_openat(__VA_ARGS__)
#define linkat(...) psyne_test_linkat(__VA_ARGS__)
#define fcntl(...) psyne_test_fcntl(__VA_ARGS__)
#endif

#include <psyne/opening.hpp>

#if defined(__SANITIZE_THREAD__)
#undef mmap
#undef munmap
#undef openat
#undef linkat
#undef fcntl
#endif
