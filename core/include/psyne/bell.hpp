// Waking through a file descriptor: a FIFO per member that asked for one, so that event loops can wait for it.
//
// Whoever wakes such a member writes a byte. The FIFO has a name only once its owner has it open for reading: a name
// without a reader is a dead one's, and whoever meets it removes it.
#pragma once

#include <array>
#include <cstdio>
#include <memory>
#include <mutex>

#include <psyne/channel_file.hpp>

namespace psyne {

inline constexpr const char* kBellSuffix = ".wake";

inline bool ends_with(const std::string& name, const std::string& suffix) {
    return name.size() > suffix.size() && name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
}

/// The FIFO of a member of a channel.
inline std::string bell_name(const std::string& prefix, uint64_t join) {
    return prefix + std::to_string(join) + kBellSuffix;
}

/// The FIFO of one who waits for a channel to be made; different at each call.
inline std::string waiting_bell_name(const std::string& prefix) {
    static std::atomic<uint64_t> count{0};
    const uint64_t unique = sys::wall_ns() ^ static_cast<uint64_t>(::getpid()) << 40 ^ count.fetch_add(1) << 56;
    char hex[17];
    std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(unique));
    return prefix + hex + kBellSuffix;
}

/// Rings those that wait for a channel of this name to be made.
inline void ring_waiting(const Names& names, const std::string& name) noexcept try {
    const FifoPlace place = names.fifos(name);
    if (!place.directory) return;
    const size_t size = waiting_bell_name(place.prefix).size();
    for (const std::string& entry : sys::list(*place.directory)) {
        if (entry.size() != size || entry.compare(0, place.prefix.size(), place.prefix) != 0 || !ends_with(entry, kBellSuffix))
            continue;
        bool deserted;
        if (const sys::Fd fd = sys::open_fifo(*place.directory, entry, deserted)) sys::write_byte(fd);
        if (deserted) sys::unlink_file(*place.directory, entry);
    }
} catch (const std::exception&) {  // they look by themselves once a slice
}

/// One's own FIFO.
class Bell {
public:
    Bell(std::shared_ptr<const sys::Fd> where, const std::string& name) : directory_(std::move(where)), owner_(::getpid()) {
        sweep(*directory_);
        const std::string unfinished = name + kUnfinished;
        do {  // a sweeper may take it for a dead one's until it is open
            fd_ = sys::make_fifo(*directory_, unfinished);
        } while (!fd_ || !sys::rename_file(*directory_, unfinished, name));
        name_ = name;
    }
    ~Bell() { forget_name(); }
    Bell(const Bell&) = delete;
    Bell& operator=(const Bell&) = delete;

    int fd() const noexcept { return fd_.get(); }
    /// Not so in a forked child: a FIFO there has two readers.
    bool ours() const noexcept { return owner_ == ::getpid(); }
    /// Another channel, or at last one: the descriptor stays. Where somebody removed the name nobody rings any more,
    /// and its owner finds out once a slice.
    void rename(const std::string& name) {
        sys::rename_file(*directory_, name_, name);
        name_ = name;
    }
    /// Nobody finds it any more; the descriptor stays. Not in a forked child: it is the parent's.
    void forget_name() noexcept {
        if (!name_.empty() && ours()) sys::unlink_file(*directory_, name_);
        name_.clear();
    }
    /// Any thread; all else is the owner's.
    void ring() const noexcept { sys::write_byte(fd_); }
    /// Readable until it is hushed.
    void keep_ringing() noexcept {
        if (!rings_) ring();
        rings_ = true;
    }
    /// From here on others may ring.
    void listen() noexcept { listens_ = true; }
    /// Not readable; what has rung has rung.
    void hush() noexcept {
        if (rings_ || listens_) drain();
        listens_ = false;
    }
    /// The same for who goes on listening.
    void drain() noexcept {
        sys::drain_fifo(fd_);
        rings_ = false;
    }

private:
    static constexpr const char* kUnfinished = ".wake.new";
    std::shared_ptr<const sys::Fd> directory_;
    pid_t owner_;
    sys::Fd fd_;
    std::string name_;
    bool rings_ = false, listens_ = false;  // has a byte; may have one

    /// Removes what the dead left: the kernel knows of no reader.
    static void sweep(const sys::Fd& directory) {
        for (const std::string& entry : sys::list(directory)) {
            if (!ends_with(entry, kBellSuffix) && !ends_with(entry, kUnfinished)) continue;
            bool deserted;
            sys::open_fifo(directory, entry, deserted);
            if (deserted) sys::unlink_file(directory, entry);
        }
    }
};

/// The FIFOs of the other members of a channel, opened when they are first rung. Any thread.
class Bells {
public:
    explicit Bells(StoragePtr storage) : storage_(std::move(storage)) {}

    /// Rings member `id`; false when it has no bell (any more).
    bool ring(uint64_t id, uint64_t join) noexcept try {
        std::lock_guard guard(lock_);
        Known& k = known_[id];
        if (k.join != join || !k.fd) {
            if (!place_.directory) place_ = storage_->fifos();
            bool deserted;
            k.fd = sys::open_fifo(*place_.directory, bell_name(place_.prefix, join), deserted);
            k.join = join;
        }
        if (k.fd && sys::write_byte(k.fd)) return true;
        k.fd.reset();
        return false;
    } catch (const std::exception&) {  // no memory: its next slice finds out
        return false;
    }

    /// Removes the bell of one who is gone.
    void remove(uint64_t join) noexcept try {
        const FifoPlace place = storage_->fifos();
        sys::unlink_file(*place.directory, bell_name(place.prefix, join));
    } catch (const std::exception&) {  // the next bell that is made sweeps
    }

private:
    struct Known {
        uint64_t join = 0;
        sys::Fd fd;
    };
    StoragePtr storage_;
    FifoPlace place_;
    std::mutex lock_;
    std::array<Known, kMaxMembers> known_;
};

}  // namespace psyne
