// What Linux and macOS share: descriptors, mappings, directories.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <psyne/errors.hpp>

namespace psyne::sys {

[[noreturn]] inline void fail_errno(const std::string& what) {
    const int e = errno;
    fail(e == ENOENT ? Errc::not_found : e == ENOSPC || e == ENOMEM ? Errc::no_space : Errc::system,
         what + ": " + std::strerror(e));
}

/// A file descriptor that closes itself.
class Fd {
public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Fd() { reset(); }
    void reset() noexcept {
        if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    }
    int get() const noexcept { return fd_; }
    /// The caller closes it.
    int release() noexcept { return std::exchange(fd_, -1); }
    explicit operator bool() const noexcept { return fd_ >= 0; }

private:
    int fd_ = -1;
};

/// Another descriptor of the same description, which keeps its locks.
inline Fd duplicate(const Fd& fd) {
    Fd again(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
    if (!again) fail_errno("cannot duplicate a descriptor");
    return again;
}

/// A shared mapping that unmaps itself.
class Mapping {
public:
    Mapping() = default;
    Mapping(void* data, uint64_t size) : data_(data), size_(size) {}
    Mapping(Mapping&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Mapping& operator=(Mapping&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~Mapping() {
        if (data_) ::munmap(data_, size_);
    }
    std::byte* data() const noexcept { return static_cast<std::byte*>(data_); }
    uint64_t size() const noexcept { return size_; }
    explicit operator bool() const noexcept { return data_ != nullptr; }

private:
    void* data_ = nullptr;
    uint64_t size_ = 0;
};

inline void no_sigpipe([[maybe_unused]] const Fd& fd) noexcept {
#ifdef F_SETNOSIGPIPE
    ::fcntl(fd.get(), F_SETNOSIGPIPE, 1);
#endif
}
/// Writes one byte into a FIFO, without SIGPIPE; false when nobody reads it any more.
inline bool write_byte(const Fd& fd) noexcept {
#ifdef F_SETNOSIGPIPE
    return ::write(fd.get(), "!", 1) == 1 || errno == EAGAIN;
#else
    struct sigaction now_set {};
    if (::sigaction(SIGPIPE, nullptr, &now_set) == 0 && now_set.sa_handler == SIG_IGN)  // as Python has it
        return ::write(fd.get(), "!", 1) == 1 || errno == EAGAIN;
    sigset_t pipe, before;
    ::sigemptyset(&pipe);
    ::sigaddset(&pipe, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe, &before);
    const bool written = ::write(fd.get(), "!", 1) == 1 || errno == EAGAIN;
    const timespec now{};
    if (!written) ::sigtimedwait(&pipe, nullptr, &now);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return written;
#endif
}

inline uint64_t page_size() noexcept { return static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)); }

/// Bytes of a mapping that have pages.
inline uint64_t resident(const Mapping& mapping) noexcept {
    constexpr uint64_t kRun = 4096;  // pages that are asked for at once
#if defined(__APPLE__)
    char pages[kRun];
#else
    unsigned char pages[kRun];
#endif
    uint64_t sum = 0;
    for (uint64_t at = 0; at < mapping.size(); at += kRun * page_size()) {
        const uint64_t bytes = std::min(kRun * page_size(), mapping.size() - at);
        if (::mincore(mapping.data() + at, bytes, pages) != 0) return sum;
        for (uint64_t i = 0; i * page_size() < bytes; ++i) sum += (pages[i] & 1) != 0 ? page_size() : 0;
    }
    return sum;
}

/// Copy-on-write pages of a file; it need not be open for writing.
inline Mapping map_private(const Fd& fd, uint64_t offset, uint64_t size) {
    void* data =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get(), static_cast<off_t>(offset));
    if (data == MAP_FAILED) fail_errno("cannot map " + std::to_string(size) + " bytes copy-on-write");
    return Mapping(data, size);
}

inline uint64_t clock_ns(clockid_t clock) noexcept {
    timespec t{};
    ::clock_gettime(clock, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(t.tv_nsec);
}
inline uint64_t now_ns() noexcept { return clock_ns(CLOCK_MONOTONIC); }
inline uint64_t wall_ns() noexcept { return clock_ns(CLOCK_REALTIME); }

/// Opens (and makes, mode 0700) the directory that holds the channels of one user.
inline Fd open_directory(const std::string& path) {
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) fail_errno("cannot make the channel directory " + path);
    Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) fail_errno("cannot open the channel directory " + path);
    struct stat st{};
    if (::fstat(fd.get(), &st) != 0) fail_errno("cannot look at the channel directory " + path);
    if (st.st_uid != ::geteuid() || (st.st_mode & 077) != 0) {
        char mode[8];
        std::snprintf(mode, sizeof mode, "%04o", static_cast<unsigned>(st.st_mode & 07777));
        fail(Errc::incompatible, "the channel directory " + path + " belongs to uid " + std::to_string(st.st_uid) +
                                     " with mode " + mode + "; it must be yours (uid " +
                                     std::to_string(::geteuid()) + ") with mode 0700. chmod it, or set PSYNE_DIR");
    }
    return fd;
}

/// The names in a directory.
inline std::vector<std::string> list(const Fd& directory) {
    std::vector<std::string> names;
    const int fd = ::openat(directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) fail_errno("cannot list the channel directory");
    DIR* dir = ::fdopendir(fd);
    if (!dir) {
        ::close(fd);
        fail_errno("cannot list the channel directory");
    }
    while (const dirent* entry = ::readdir(dir)) names.emplace_back(entry->d_name);
    ::closedir(dir);
    return names;
}

/// Opens a file of ours; an empty Fd when it is not there (any more). Never follows links.
inline Fd open_file(const Fd& directory, const std::string& name, bool writable) {
    Fd fd(::openat(directory.get(), name.c_str(), (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
    const int e = errno;
    if (!fd && (e == ELOOP || e == ENXIO || e == EISDIR || e == EACCES || e == ENOTDIR))
        fail(Errc::incompatible, "cannot open " + name + ": " + std::strerror(e) + "; it is not a file of psyne's, remove it");
    if (!fd && e != ENOENT) fail_errno("cannot open " + name);
    return fd;
}

inline void unlink_file(const Fd& directory, const std::string& name) noexcept {
    ::unlinkat(directory.get(), name.c_str(), 0);
}

/// A FIFO of ours, open for both: it never waits and has a reader. Empty when somebody removed the name meanwhile.
inline Fd make_fifo(const Fd& directory, const std::string& name) {
    if (::mkfifoat(directory.get(), name.c_str(), 0600) != 0 && errno != EEXIST) fail_errno("cannot make the FIFO " + name);
    Fd fd(::openat(directory.get(), name.c_str(), O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
    if (!fd && errno != ENOENT) fail_errno("cannot open the FIFO " + name);
    struct stat st{};
    if (fd && (::fstat(fd.get(), &st) != 0 || !S_ISFIFO(st.st_mode) || st.st_uid != ::geteuid()))
        fail(Errc::incompatible, name + " is not a FIFO of uid " + std::to_string(::geteuid()) +
                                     "; something else lies under its name: remove it");
    return fd;
}
/// A FIFO of ours for writing; empty when it is not there. `deserted`: nobody has it open for reading.
inline Fd open_fifo(const Fd& directory, const std::string& name, bool& deserted) noexcept {
    Fd fd(::openat(directory.get(), name.c_str(), O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
    struct stat st{};
    deserted = !fd && errno == ENXIO && ::fstatat(directory.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
               S_ISFIFO(st.st_mode);  // a socket has no reader either
    if (fd && (::fstat(fd.get(), &st) != 0 || !S_ISFIFO(st.st_mode) || st.st_uid != ::geteuid())) fd.reset();
    if (fd) no_sigpipe(fd);
    return fd;
}
/// A pipe whose ends do not wait and are not inherited: the one to read from, the one to write to.
inline std::pair<Fd, Fd> make_pipe() {
    int ends[2];
    if (::pipe(ends) != 0) fail_errno("cannot make a pipe");
    std::pair<Fd, Fd> both{Fd(ends[0]), Fd(ends[1])};
    for (const int fd : ends) {
        ::fcntl(fd, F_SETFD, FD_CLOEXEC);
        ::fcntl(fd, F_SETFL, O_NONBLOCK);
    }
    return both;
}
/// Takes everything out of a FIFO.
inline void drain_fifo(const Fd& fd) noexcept {
    char bytes[256];
    while (::read(fd.get(), bytes, sizeof bytes) == static_cast<ssize_t>(sizeof bytes)) {
    }
}

/// False when `from` is not there any more.
inline bool rename_file(const Fd& directory, const std::string& from, const std::string& to) {
    if (::renameat(directory.get(), from.c_str(), directory.get(), to.c_str()) == 0) return true;
    if (errno != ENOENT) fail_errno("cannot rename " + from);
    return false;
}

/// Size in bytes of a file of ours, after checks of kind, owner and mode.
inline uint64_t checked_size(const Fd& fd, const std::string& name) {
    struct stat st{};
    if (::fstat(fd.get(), &st) != 0) fail_errno("cannot look at " + name);
    if (!S_ISREG(st.st_mode) || st.st_uid != ::geteuid() || (st.st_mode & 077) != 0)
        fail(Errc::incompatible, name + " is not a private regular file of uid " + std::to_string(::geteuid()) +
                                     "; something else lies under the channel's name: remove it");
    return static_cast<uint64_t>(st.st_size);
}

/// What no two files have at a time.
inline uint64_t inode_of(const Fd& fd) noexcept {
    struct stat st{};
    return ::fstat(fd.get(), &st) == 0 ? static_cast<uint64_t>(st.st_ino) : 0;
}
inline uint64_t size_of(const Fd& fd) noexcept {
    struct stat st{};
    return ::fstat(fd.get(), &st) == 0 ? static_cast<uint64_t>(st.st_size) : 0;
}
/// Of the pages that a file has; a sparse one is longer.
inline uint64_t bytes_in_use(const Fd& fd) noexcept {
    struct stat st{};
    return ::fstat(fd.get(), &st) == 0 ? static_cast<uint64_t>(st.st_blocks) * 512 : 0;
}

/// Reads exactly `bytes` at an offset; reading makes no pages, unlike touching a mapping.
inline bool read_at(const Fd& fd, void* to, uint64_t bytes, uint64_t offset) noexcept {
    return ::pread(fd.get(), to, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes);
}

inline void write_at(const Fd& fd, const void* from, uint64_t bytes, uint64_t offset) {
    if (::pwrite(fd.get(), from, bytes, static_cast<off_t>(offset)) != static_cast<ssize_t>(bytes))
        fail_errno("cannot write " + std::to_string(bytes) + " bytes of shared memory");
}

inline struct ::flock byte_lock(uint64_t byte, short type) noexcept {
    struct ::flock lock{};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = static_cast<off_t>(byte);
    lock.l_len = 1;
    return lock;
}

}  // namespace psyne::sys
