// Linux: futex, O_TMPFILE, memfd, fallocate, OFD locks, pidfd, membarrier, inotify.
#pragma once

#include <linux/falloc.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>

#include <psyne/system/posix.hpp>

#ifndef F_OFD_SETLK  // _GNU_SOURCE is off
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef RUSAGE_THREAD
#define RUSAGE_THREAD 1
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

namespace psyne::sys {

[[noreturn]] inline void fail_reserve(uint64_t size, int e) {
    if (e == ENOSPC || e == ENOMEM || e == EFBIG)
        fail(Errc::no_space, "no space in shared memory for " + std::to_string(size) + " bytes (" + std::strerror(e) +
                                 "); lower capacity=, free space in /dev/shm, or point PSYNE_DIR at a larger tmpfs");
    errno = e;
    fail_errno("cannot reserve " + std::to_string(size) + " bytes of shared memory");
}

/// Pages for a part of a file: a full file system is an error here, never SIGBUS later.
inline void reserve(const Fd& fd, uint64_t offset, uint64_t size) {
    int e = 0;  // in pieces: a timer's signals would interrupt one large call again and again
    for (uint64_t at = 0; at < size && e == 0;) {
        const uint64_t piece = std::min<uint64_t>(size - at, at == 0 && size > 1ull << 36 ? size : 16ull << 20);
        e = ::posix_fallocate(fd.get(), static_cast<off_t>(offset + at), static_cast<off_t>(piece));
        if (e == 0) at += piece;
        if (e == EINTR) e = 0;
    }
    if (e != 0) fail_reserve(size, e);
}

/// A file without a name, the pages of its beginning reserved.
inline Fd make_unnamed(const Fd& directory, uint64_t size, uint64_t reserved) {
    Fd fd(::openat(directory.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!fd) fail_errno("cannot make a file in the channel directory");
    if (reserved != 0) reserve(fd, 0, reserved);
    if (size > reserved && ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
        fail_errno("cannot make a file of " + std::to_string(size) + " bytes");
    return fd;
}

/// Gives a complete unnamed file its name; false when the name is taken.
inline bool publish(const Fd& directory, const Fd& file, const std::string& name) {
    const std::string self = "/proc/self/fd/" + std::to_string(file.get());
    if (::linkat(AT_FDCWD, self.c_str(), directory.get(), name.c_str(), AT_SYMLINK_FOLLOW) == 0) return true;
    if (errno == EEXIST) return false;
    fail_errno("cannot name the file " + name);
}

enum class Populate { no, yes };

/// From here on no touch of these pages faults.
inline void populate(std::byte* data, uint64_t size, bool writable) noexcept {
    if (::madvise(data, size, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0) return;
    const volatile std::byte* bytes = data;  // before Linux 5.14
    for (uint64_t i = 0; i < size; i += page_size()) (void)bytes[i];
}

/// Maps a part of a file of ours; with Populate::yes no later touch of it faults.
inline Mapping map(const Fd& fd, uint64_t size, bool writable, Populate all, uint64_t offset = 0) {
    void* data = ::mmap(nullptr, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd.get(),
                        static_cast<off_t>(offset));
    if (data == MAP_FAILED) fail_errno("cannot map " + std::to_string(size) + " bytes");
    Mapping mapping(data, size);
    if (all == Populate::yes) populate(mapping.data(), size, writable);
    return mapping;
}

/// The life lock of one end: a byte of the channel file, freed by the kernel when the process is gone.
inline bool lock_byte(const Fd& fd, uint64_t byte) noexcept {
    auto lock = byte_lock(byte, F_WRLCK);
    return ::fcntl(fd.get(), F_OFD_SETLK, &lock) == 0;
}
inline void unlock_byte(const Fd& fd, uint64_t byte) noexcept {
    auto lock = byte_lock(byte, F_UNLCK);
    ::fcntl(fd.get(), F_OFD_SETLK, &lock);
}
/// True when another open file holds the byte (one's own locks do not show).
inline bool byte_locked(const Fd& fd, uint64_t byte) noexcept {
    auto lock = byte_lock(byte, F_WRLCK);
    return ::fcntl(fd.get(), F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

/// Says that one uses what this byte stands for; others may, too.
inline bool share_byte(const Fd& fd, uint64_t byte) noexcept {
    auto lock = byte_lock(byte, F_RDLCK);
    return ::fcntl(fd.get(), F_OFD_SETLK, &lock) == 0;
}

/// Bytes that may still be had: free memory and swap, within the limit of the cgroup. A memory without a file system
/// has no limit of its own, and the kernel kills processes rather than say no.
inline uint64_t memory_left(const std::string& cgroup = "/sys/fs/cgroup") {
    const auto number = [](const std::string& path, const char* key) -> uint64_t {
        char text[4096];
        const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
        const ssize_t n = fd ? ::read(fd.get(), text, sizeof text - 1) : -1;
        if (n <= 0) return ~0ull;
        text[n] = 0;
        const char* p = std::strstr(text, key);
        char* end = nullptr;
        const uint64_t value = p ? std::strtoull(p + std::strlen(key), &end, 10) : 0;
        return p && end != p + std::strlen(key) ? value : ~0ull;  // "max" is no number
    };
    const uint64_t available = number("/proc/meminfo", "MemAvailable:"), swap = number("/proc/meminfo", "SwapFree:");
    uint64_t left = available == ~0ull ? ~0ull : (available + (swap == ~0ull ? 0 : swap)) * 1024;
    const uint64_t most = number(cgroup + "/memory.max", "");
    uint64_t used = number(cgroup + "/memory.current", "");
    if (most == ~0ull || used == ~0ull) return left;
    for (const char* cache : {"\nactive_file ", "\ninactive_file "})  // of files: goes when the memory is needed
        if (const uint64_t bytes = number(cgroup + "/memory.stat", cache); bytes != ~0ull) used -= std::min(used, bytes);
    return std::min(left, most > used ? most - used : 0);
}

/// A sparse memory without a name that nobody can make shorter or longer.
inline Fd make_memory(uint64_t size) {
    constexpr unsigned kNoExecSeal = 8;  // MFD_NOEXEC_SEAL, since Linux 6.3
    Fd fd(static_cast<int>(::syscall(SYS_memfd_create, "psyne", MFD_CLOEXEC | MFD_ALLOW_SEALING | kNoExecSeal)));
    if (!fd && errno == EINVAL) fd = Fd(::memfd_create("psyne", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd) fail_errno("cannot make a memory without a name");
    if (::fchmod(fd.get(), 0600) != 0 || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0 ||
        ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        fail_errno("cannot make a sparse memory of " + std::to_string(size) + " bytes (look at ulimit -f)");
    return fd;
}
inline bool is_sealed(const Fd& fd) noexcept {
    const int seals = ::fcntl(fd.get(), F_GET_SEALS, 0);
    return seals >= 0 && (seals & F_SEAL_SHRINK) != 0 && (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) == 0;
}

/// Another description of the same file: locks belong to descriptions.
inline Fd reopen(const Fd& fd, bool writable) {
    const std::string self = "/proc/self/fd/" + std::to_string(fd.get());
    Fd again(::open(self.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC));
    if (!again) fail_errno("cannot open " + self + " again");
    return again;
}

/// The first offset from `from` on that has pages; the highest number if none has.
inline uint64_t next_data(const Fd& fd, uint64_t from) noexcept {
    const off_t at = ::lseek(fd.get(), static_cast<off_t>(from), SEEK_DATA);
    return at < 0 ? ~0ull : static_cast<uint64_t>(at);
}
/// Gives pages back: zeros from now on.
inline void give_back(const Fd& fd, uint64_t offset, uint64_t size) noexcept {
    ::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(size));
}

/// Pages for a part of a memory without a name.
inline void reserve_memory(const Fd& fd, uint64_t offset, uint64_t size) {
    if (const uint64_t left = memory_left(); size > left)
        fail(Errc::no_space, "no space for " + std::to_string(size) + " bytes: " + std::to_string(left) +
                                 " bytes of memory are free; lower capacity=");
    try {
        reserve(fd, offset, size);
    } catch (const Error&) {
        give_back(fd, offset, size);
        throw;
    }
}

/// Start of a process in clock ticks since boot (field 22 of /proc/<pid>/stat), 0 when it is gone.
inline uint64_t process_start(int32_t pid) noexcept {
    char path[48], text[1024];
    std::snprintf(path, sizeof path, "/proc/%d/stat", static_cast<int>(pid));
    Fd fd(::open(path, O_RDONLY | O_CLOEXEC));
    if (!fd) return 0;
    const ssize_t n = ::read(fd.get(), text, sizeof text - 1);
    if (n <= 0) return 0;
    text[n] = 0;
    const char* p = std::strrchr(text, ')');  // the name may hold spaces and brackets
    for (int field = 2; p && field < 22; ++field) p = std::strchr(p + 1, ' ');
    return p ? std::strtoull(p + 1, nullptr, 10) : 0;
}

/// A number of the pid namespace: pids of another one mean nothing here.
inline uint64_t pid_namespace() noexcept {
    struct stat st{};
    return ::stat("/proc/self/ns/pid", &st) == 0 ? static_cast<uint64_t>(st.st_ino) : 0;
}

/// The kernel's word that this very process is gone: no such pid, a zombie, or another start time.
inline bool process_dead(int32_t pid, uint64_t start) noexcept {
    Fd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!fd) return errno == ESRCH;
    pollfd p{fd.get(), POLLIN, 0};
    if (::poll(&p, 1, 0) == 1 && (p.revents & POLLIN)) return true;
    const uint64_t now = process_start(pid);
    return start != 0 && now != 0 && now != start;  // 0: /proc could not be read
}

/// Sleeps while *word == value, for at most `ns`; false at the time-out. A signal or a spurious wake gives true.
inline bool futex_wait(std::atomic<uint32_t>& word, uint32_t value, uint64_t ns) noexcept {
    timespec t{static_cast<time_t>(ns / 1'000'000'000u), static_cast<long>(ns % 1'000'000'000u)};
    return ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT, value, &t, nullptr, 0) == 0 ||
           errno != ETIMEDOUT;
}
inline void futex_wake(std::atomic<uint32_t>& word) noexcept {
    ::syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

/// Registers this process for `heavy_barrier` of others; false where the kernel has none.
inline bool register_barrier() noexcept {
    static const bool done = ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
    return done;
}
/// A full fence in every registered process that runs right now.
inline bool heavy_barrier() noexcept { return ::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0; }

/// How many processors this thread may run on.
inline int usable_cpus() noexcept {
    cpu_set_t set;
    return ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

/// How often this thread had to give its processor to another one.
inline uint64_t preemptions() noexcept {
    rusage usage{};
    return ::getrusage(RUSAGE_THREAD, &usage) == 0 ? static_cast<uint64_t>(usage.ru_nivcsw) : 0;
}

/// Says when something in a directory was made, renamed or removed.
class Watch {
public:
    explicit Watch(const std::string& path) : fd_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
        if (fd_) ::inotify_add_watch(fd_.get(), path.c_str(), IN_CREATE | IN_MOVED_TO | IN_DELETE);
    }
    /// Waits for a change, at most `ns`.
    void wait(uint64_t ns) noexcept {
        pollfd p{fd_.get(), POLLIN, 0};
        const timespec t{static_cast<time_t>(ns / 1'000'000'000u), static_cast<long>(ns % 1'000'000'000u)};
        ::ppoll(&p, 1, &t, nullptr);
        char events[4096];
        while (fd_ && ::read(fd_.get(), events, sizeof events) > 0) {
        }
    }

private:
    Fd fd_;
};

}  // namespace psyne::sys
