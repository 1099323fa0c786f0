// macOS: ulock, a temporary name and link(), F_PREALLOCATE, OFD locks, proc_pidinfo, kqueue.
// It compiles (CI checks that); it has not been run on a Mac yet.
#pragma once

#include <libproc.h>
#include <signal.h>
#include <sys/event.h>
#include <sys/proc_info.h>
#include <sys/sysctl.h>

#include <algorithm>
#include <atomic>
#include <cstdio>

#include <psyne/system/posix.hpp>

#ifndef F_OFD_SETLK
#define F_OFD_SETLK 90
#define F_OFD_GETLK 92
#endif

// The system's futex. The public os_sync_wait_on_address of macOS 14.4 stands on the same calls.
extern "C" int __ulock_wait(uint32_t operation, void* address, uint64_t value, uint32_t timeout_us);
extern "C" int __ulock_wake(uint32_t operation, void* address, uint64_t value);

namespace psyne::sys {

inline constexpr uint32_t kCompareAndWaitShared = 3;
inline constexpr uint32_t kNoErrno = 0x01000000;  // the error is the negative result

/// A file under a name that nobody looks for, its memory reserved. `publish` gives it its own name.
inline Fd make_unnamed(const Fd& directory, uint64_t size) {
    static std::atomic<uint64_t> count{0};
    const std::string name = ".new." + std::to_string(::getpid()) + "." + std::to_string(count.fetch_add(1));
    Fd fd(::openat(directory.get(), name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) fail_errno("cannot make a file in the channel directory");
    fstore_t store{};
    store.fst_flags = F_ALLOCATEALL;
    store.fst_posmode = F_PEOFPOSMODE;
    store.fst_length = static_cast<off_t>(size);
    if (::fcntl(fd.get(), F_PREALLOCATE, &store) != 0 || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
        const int e = errno;
        ::unlinkat(directory.get(), name.c_str(), 0);
        fail(Errc::no_space, "no space for " + std::to_string(size) + " bytes (" + std::strerror(e) +
                                 "); lower capacity=, free space, or point PSYNE_DIR elsewhere");
    }
    return fd;
}

/// Gives a complete file its name; false when the name is taken.
inline bool publish(const Fd& directory, const Fd& file, const std::string& name) {
    char path[1024];
    if (::fcntl(file.get(), F_GETPATH, path) != 0) fail_errno("cannot find the file to be named " + name);
    const int result = ::linkat(AT_FDCWD, path, directory.get(), name.c_str(), 0);
    const int e = errno;
    ::unlink(path);
    if (result == 0) return true;
    if (e == EEXIST) return false;
    errno = e;
    fail_errno("cannot name the file " + name);
}

enum class Populate { no, yes };

/// Maps a file of ours; with Populate::yes no later touch of it faults.
inline Mapping map(const Fd& fd, uint64_t size, bool writable, Populate populate) {
    void* data = ::mmap(nullptr, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd.get(), 0);
    if (data == MAP_FAILED) fail_errno("cannot map " + std::to_string(size) + " bytes");
    Mapping mapping(data, size);
    if (populate == Populate::yes) {
        const volatile char* bytes = static_cast<const char*>(data);
        for (uint64_t i = 0; i < size; i += page_size()) (void)bytes[i];
    }
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

/// Start of a process in microseconds since 1970, 0 when it is gone.
inline uint64_t process_start(int32_t pid) noexcept {
    proc_bsdinfo info{};
    if (::proc_pidinfo(pid, PROC_PIDTBSDINFO, 0, &info, sizeof info) != static_cast<int>(sizeof info)) return 0;
    return static_cast<uint64_t>(info.pbi_start_tvsec) * 1'000'000u + info.pbi_start_tvusec;
}

/// All pids of a Mac live in one space.
inline uint64_t pid_namespace() noexcept { return 1; }

/// The kernel's word that this very process is gone: no such pid, a zombie, or another start time.
inline bool process_dead(int32_t pid, uint64_t start) noexcept {
    if (::kill(pid, 0) != 0 && errno == ESRCH) return true;
    proc_bsdinfo info{};
    if (::proc_pidinfo(pid, PROC_PIDTBSDINFO, 0, &info, sizeof info) != static_cast<int>(sizeof info)) return false;
    return info.pbi_status == SZOMB || (start != 0 && process_start(pid) != 0 && process_start(pid) != start);
}

/// Sleeps while *word == value, for at most `ns`; false at the time-out. A signal or a spurious wake gives true.
inline bool futex_wait(std::atomic<uint32_t>& word, uint32_t value, uint64_t ns) noexcept {
    const uint64_t us = std::clamp<uint64_t>(ns / 1000, 1, 0xffffffffu);  // 0 would wait for ever
    return ::__ulock_wait(kCompareAndWaitShared | kNoErrno, &word, value, static_cast<uint32_t>(us)) != -ETIMEDOUT;
}
inline void futex_wake(std::atomic<uint32_t>& word) noexcept {
    ::__ulock_wake(kCompareAndWaitShared | kNoErrno, &word, 0);
}

/// There is no process-wide barrier for others: every waker pays a fence of its own.
inline bool register_barrier() noexcept { return false; }
inline bool heavy_barrier() noexcept { return false; }

/// How many processors this thread may run on.
inline int usable_cpus() noexcept { return static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)); }

/// Says when something in a directory was made, renamed or removed.
class Watch {
public:
    explicit Watch(const std::string& path)
        : directory_(::open(path.c_str(), O_EVTONLY | O_CLOEXEC)), queue_(::kqueue()) {
        struct kevent change;
        EV_SET(&change, directory_.get(), EVFILT_VNODE, EV_ADD | EV_CLEAR, NOTE_WRITE, 0, nullptr);
        if (directory_ && queue_) ::kevent(queue_.get(), &change, 1, nullptr, 0, nullptr);
    }
    /// Waits for a change, at most `ns`.
    void wait(uint64_t ns) noexcept {
        struct kevent event;
        const timespec t{static_cast<time_t>(ns / 1'000'000'000u), static_cast<long>(ns % 1'000'000'000u)};
        ::kevent(queue_.get(), nullptr, 0, &event, 1, &t);
    }

private:
    Fd directory_, queue_;
};

}  // namespace psyne::sys
