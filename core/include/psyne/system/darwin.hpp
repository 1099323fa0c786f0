// macOS: wait on address, F_PREALLOCATE, renames that never replace, OFD locks, sysctl, kqueue.
// Not verified on hardware: compiled against Apple's headers, never run.
#pragma once

#include <sys/event.h>
#include <sys/param.h>
#include <sys/resource.h>
#include <sys/sysctl.h>
#if __has_include(<os/os_sync_wait_on_address.h>)
#include <os/os_sync_wait_on_address.h>
#define PSYNE_OS_SYNC 1
#endif

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include <psyne/system/posix.hpp>

#ifndef F_OFD_SETLK  // hidden by _POSIX_C_SOURCE
#define F_OFD_SETLK 90
#define F_OFD_GETLK 92
#endif

extern "C" {  // what libc++ waits with; in no public header. Since macOS 14.4 there is os_sync_wait_on_address
int __ulock_wait(uint32_t operation, void* address, uint64_t value, uint32_t timeout_us);
int __ulock_wake(uint32_t operation, void* address, uint64_t wake_value);
}

namespace psyne::sys {

/// What the kernel knows of a process; false when it knows nothing.
inline bool process_info(int32_t pid, kinfo_proc& info) noexcept {
    int name[4] = {CTL_KERN, KERN_PROC, KERN_PROC_PID, pid};
    size_t size = sizeof info;
    return pid > 0 && ::sysctl(name, 4, &info, &size, nullptr, 0) == 0 && size == sizeof info;
}

inline uint64_t start_of(const kinfo_proc& info) noexcept {
    const timeval& t = info.kp_proc.p_starttime;
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000u + static_cast<uint64_t>(t.tv_usec);
}

/// Start of a process in microseconds, 0 when it is gone.
inline uint64_t process_start(int32_t pid) noexcept {
    kinfo_proc info{};
    return process_info(pid, info) ? start_of(info) : 0;
}

/// All processes of a Mac share their pids.
inline uint64_t pid_namespace() noexcept { return 1; }

/// The kernel's word that this very process is gone: no such pid, a zombie, or another start time.
inline bool process_dead(int32_t pid, uint64_t start) noexcept {
    kinfo_proc info{};
    if (!process_info(pid, info)) return pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH;
    return info.kp_proc.p_stat == SZOMB || (start != 0 && start_of(info) != start);
}

// There are no files without a name here. Until it is published a file is called ".<pid>.<number>.making"; what a killed
// process leaves is removed by the next one that makes a file.
inline constexpr const char* kMaking = ".making";

inline void remove_unfinished(const Fd& directory) {
    for (const std::string& name : list(directory)) {
        if (name[0] != '.' || name.size() < 10 || name.compare(name.size() - 7, 7, kMaking) != 0) continue;
        const int32_t pid = static_cast<int32_t>(std::strtol(name.c_str() + 1, nullptr, 10));
        if (pid > 0 && ::kill(pid, 0) != 0 && errno == ESRCH) unlink_file(directory, name);
    }
}

/// Pages for a part of a file, which has none there yet.
inline void reserve(const Fd& fd, uint64_t offset, uint64_t size) {
    const std::vector<char> zeros(size);
    write_at(fd, zeros.data(), size, offset);
}

/// A file that nobody finds yet, its beginning reserved: a full file system is an error here, never SIGBUS later.
inline Fd make_unnamed(const Fd& directory, uint64_t size, uint64_t reserved) {
    static std::atomic<uint64_t> number{0};
    remove_unfinished(directory);
    const std::string name = "." + std::to_string(::getpid()) + "." + std::to_string(number.fetch_add(1)) + kMaking;
    Fd fd(::openat(directory.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd) fail_errno("cannot make a file in the channel directory");
    fstore_t room{F_ALLOCATEALL, F_PEOFPOSMODE, 0, static_cast<off_t>(reserved), 0};
    if ((reserved != 0 && ::fcntl(fd.get(), F_PREALLOCATE, &room) == -1) || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
        const int e = errno;
        unlink_file(directory, name);
        if (e == ENOSPC || e == EFBIG || e == EDQUOT)
            fail(Errc::no_space, "no space for " + std::to_string(size) + " bytes (" + std::strerror(e) +
                                     "); lower capacity=, free space, or point PSYNE_DIR at a larger disk");
        errno = e;
        fail_errno("cannot reserve " + std::to_string(size) + " bytes of shared memory");
    }
    return fd;
}

/// Gives a complete file its name; false when the name is taken.
inline bool publish(const Fd& directory, const Fd& file, const std::string& name) {
    char making[MAXPATHLEN];
    if (::fcntl(file.get(), F_GETPATH, making) == -1) fail_errno("cannot find the file that becomes " + name);
    if (::renameatx_np(AT_FDCWD, making, directory.get(), name.c_str(), RENAME_EXCL) == 0) return true;
    const int e = errno;
    ::unlink(making);
    if (e == EEXIST) return false;
    errno = e;
    fail_errno("cannot name the file " + name);
}

enum class Populate { no, yes };

/// From here on few touches of these pages fault.
inline void populate(std::byte* data, uint64_t size, bool) noexcept {
    ::madvise(data, size, MADV_WILLNEED);
    const volatile std::byte* bytes = data;
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

// A memory without a name that others can open again, and lock bytes of, is not to be had here.
inline Fd make_memory(uint64_t) {
    fail(Errc::system, "psyne.channel() and memory:// need Linux (memfd); name the channel with ipc://");
}
inline bool is_sealed(const Fd&) noexcept { return false; }
inline void reserve_memory(const Fd&, uint64_t, uint64_t) {}
inline Fd reopen(const Fd& fd, bool) {
    Fd again(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
    if (!again) fail_errno("cannot open a memory again");
    return again;
}
inline bool share_byte(const Fd&, uint64_t) noexcept { return true; }
inline uint64_t next_data(const Fd&, uint64_t) noexcept { return ~0ull; }
inline void give_back(const Fd&, uint64_t, uint64_t) noexcept {}

inline constexpr uint32_t kCompareAndWaitShared = 3;  // UL_COMPARE_AND_WAIT_SHARED: 32 bits, between processes

/// Sleeps while word == value, for at most `ns`; false at the time-out. A signal or a spurious wake gives true.
inline bool futex_wait(std::atomic<uint32_t>& word, uint32_t value, uint64_t ns) noexcept {
#ifdef PSYNE_OS_SYNC
    if (__builtin_available(macOS 14.4, *))
        return ::os_sync_wait_on_address_with_timeout(&word, value, 4, OS_SYNC_WAIT_ON_ADDRESS_SHARED,
                                                      OS_CLOCK_MACH_ABSOLUTE_TIME, std::max<uint64_t>(ns, 1)) >= 0 ||
               errno != ETIMEDOUT;
#endif
    const uint64_t us = std::clamp<uint64_t>(ns / 1000, 1, UINT32_MAX);  // 0 would be for ever
    return ::__ulock_wait(kCompareAndWaitShared, &word, value, static_cast<uint32_t>(us)) >= 0 || errno != ETIMEDOUT;
}
inline void futex_wake(std::atomic<uint32_t>& word) noexcept {
#ifdef PSYNE_OS_SYNC
    if (__builtin_available(macOS 14.4, *)) {
        ::os_sync_wake_by_address_any(&word, 4, OS_SYNC_WAKE_BY_ADDRESS_SHARED);
        return;
    }
#endif
    ::__ulock_wake(kCompareAndWaitShared, &word, 0);
}

/// No process-wide barrier here: wakers raise fences of their own.
inline bool register_barrier() noexcept { return false; }
inline bool heavy_barrier() noexcept { return false; }

/// How many processors there are; threads are not bound to some of them here.
inline int usable_cpus() noexcept { return static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)); }

/// How often this process had to give a processor to another one: it is not counted for each thread here.
inline uint64_t preemptions() noexcept {
    rusage usage{};
    return ::getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<uint64_t>(usage.ru_nivcsw) : 0;
}

/// Says when something in a directory was made, renamed or removed.
class Watch {
public:
    explicit Watch(const std::string& path)
        : directory_(::open(path.c_str(), O_EVTONLY | O_CLOEXEC)), queue_(::kqueue()) {
        struct ::kevent change;
        EV_SET(&change, static_cast<uintptr_t>(directory_.get()), EVFILT_VNODE, EV_ADD | EV_CLEAR, NOTE_WRITE, 0, nullptr);
        if (queue_ && directory_) ::kevent(queue_.get(), &change, 1, nullptr, 0, nullptr);
    }
    /// Waits for a change, at most `ns`.
    void wait(uint64_t ns) noexcept {
        const timespec t{static_cast<time_t>(ns / 1'000'000'000u), static_cast<long>(ns % 1'000'000'000u)};
        struct ::kevent event;
        ::kevent(queue_.get(), nullptr, 0, &event, 1, &t);
    }

private:
    Fd directory_, queue_;
};

}  // namespace psyne::sys
