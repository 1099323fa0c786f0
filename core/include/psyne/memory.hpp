// Channels in one sealed, sparse memory without a name: anonymous ones, and memory:// inside one process.
//
//   0           64 TiB            256 TiB           512 TiB
//  ┌───────────┬ ─ ─ ─ ─ ─ ─ ─ ─ ┬─────────────────┬─────────────────┬ ─ ─
//  │ channel   │                 │ lane 0, cell 0  │ lane 0, cell 1  │ …      only what is used has pages
//  └───────────┴ ─ ─ ─ ─ ─ ─ ─ ─ ┴─────────────────┴─────────────────┴ ─ ─
//                                 slab·acks·extents· : 64 TiB each
//
// A place is used again, so nobody may find there what he did not look for. It has two locks. Those who map it share the
// one. Who makes room there has the other alone; nobody waits for it: who does not get it goes elsewhere.
//  - Attaching: lock the place, then look whether the cell still names the slab; let go if not.
//  - Making, for a cell that names none: get the room; if nobody maps the place, give back what was there, lock it as one
//    who maps it, and only then let go of the room. The lock is kept while the slab is mapped.
//  - Sweeping: get the room; nobody maps the place; no cell names it; nobody maps it: give back what was there.
//    After the first look no maker is left whose slab may still come into the cell, after the second nobody can attach,
//    and after the third nobody is left who could before.
// The kernel frees the locks of the dead. models/reclaim.pml shows that no step can be left out.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>

#include <psyne/storage.hpp>

namespace psyne {

inline constexpr uint64_t kPartBytes = 1ull << 46;
inline constexpr uint64_t kPlaceBytes = 4 * kPartBytes;
inline constexpr uint64_t kMemoryBytes = (1 + kMaxLanes * kMaxSlabs) * kPlaceBytes;
inline constexpr uint64_t kMapLocks = 1ull << 60;   // + slab_id(): who maps it. Beyond the life locks and all places
inline constexpr uint64_t kRoomLocks = 1ull << 61;  // + slab_id(): who makes room there

/// A directory for the FIFOs of members: these need names. Set before an end of such a channel is opened, not while one
/// is: each keeps the path that it found.
class FifoDirectory {
public:
    void set(std::string path) {
        std::lock_guard guard(lock_);
        path_ = std::move(path);
    }
    std::string get() {
        std::lock_guard guard(lock_);
        return path_;
    }

private:
    std::mutex lock_;
    std::string path_;
};
inline FifoDirectory& fifo_directory() {
    static FifoDirectory directory;
    return directory;
}

/// One memory, by a description of one's own.
class Memory final : public Storage {
public:
    /// `any` is an open descriptor of it. `forget` takes its name out of a table; without one it lasts.
    Memory(std::string where, const sys::Fd& any, std::function<void()> forget)
        : Storage(std::move(where)), fd_(sys::reopen(any, true)), forget_(std::move(forget)), fifos_(fifo_directory().get()) {
        if (!sys::is_sealed(fd_) || sys::size_of(fd_) != kMemoryBytes)  // nobody can cut it short under us
            fail(Errc::incompatible, address + " is not the memory of a channel; use the ends that psyne.channel() gave");
        table_ = sys::map(fd_, kSchemaOffset, false, sys::Populate::no);
    }

    /// A channel file at the beginning of a memory, by another description of one's own.
    static OpenedFile open_channel(const std::string& where, const sys::Fd& any, std::function<void()> forget) {
        OpenedFile o{sys::reopen(any, true), 0, where, std::make_shared<const Memory>(where, any, std::move(forget))};
        ChannelShape shape{};
        // Mapping what has no pages makes them: a damaged header must not use up the machine.
        if (sys::read_at(o.fd, &shape, sizeof shape, 0)) o.bytes = std::min(shape.file_bytes, sys::bytes_in_use(o.fd));
        return o;
    }
    static OpenedFile make_channel(const std::string& where, uint64_t bytes, std::function<void()> forget) {
        sys::Fd fd = sys::make_memory(kMemoryBytes);
        sys::reserve_memory(fd, 0, bytes);
        auto storage = std::make_shared<const Memory>(where, fd, std::move(forget));
        return {std::move(fd), bytes, where, std::move(storage)};
    }

    bool vacant(uint64_t lane) const override {
        for (uint64_t cell = 0; cell < kMaxSlabs; ++cell)
            if (!mapped(slab_id(lane, cell))) return true;
        return false;
    }

    Block make(const SlabPlace& place, Part part, uint64_t bytes, uint64_t reserved) const override {
        if (bytes > kPartBytes)
            fail(Errc::no_space, "no space for " + std::to_string(bytes) + " bytes in " + address + ": a ring has at most " +
                                     std::to_string(kPartBytes) + "; lower capacity=");
        Block block = at(place, part, true);
        block.bytes = bytes;
        if (part == Part::slab) {  // the first of them
            const Room room(fd_, place.id());
            if (!room || mapped(place.id())) return {};
            room.give_back();
            share(block, place);  // before the room is let go
        }
        if (reserved == 0) return block;
        sys::write_at(block.file, "", 1, block.offset);  // sweep() finds written pages, not those that are only reserved
        sys::reserve_memory(block.file, block.offset, reserved);
        return block;
    }
    void reserve(const SlabPlace& place, Part part, uint64_t where, uint64_t bytes) const override {
        sys::reserve_memory(fd_, offset_of(place, part) + where, bytes);
    }
    bool publish(const Block&) const override { return true; }  // the lane's record will say that it is there

    Block open(const SlabPlace& place, Part part, bool writable) const override {
        Block block = at(place, part, writable);
        if (part == Part::slab) share(block, place);
        if (!in_table(place)) return {};
        if (part == Part::extents) {  // its slab says how large
            block.bytes = kPartBytes;
            return block;
        }
        uint64_t start[3] = {};  // magic, version and abi, size: slab and acks begin alike
        if (!sys::read_at(block.file, start, sizeof start, block.offset) || start[0] == 0) return {};
        block.bytes = start[2];
        if (block.bytes > kPartBytes || (part == Part::slab && block.bytes > sys::bytes_in_use(block.file)))
            fail(Errc::incompatible, block.name + " says that it has " + std::to_string(block.bytes) +
                                         " bytes; somebody has damaged the memory of this channel");
        return block;
    }
    /// At once if it is out of the table and nobody maps it; else sweep() does it later.
    void remove(const SlabPlace& place) const noexcept override { sweep_place(place.id()); }
    void remove_lane(uint64_t) const noexcept override {}  // its slabs are in the table as long as it is

    void sweep() const noexcept override {
        for (uint64_t from = kPlaceBytes; (from = sys::next_data(fd_, from)) < kMemoryBytes;) {
            const uint64_t id = from / kPlaceBytes;
            sweep_place(id);
            from = (id + 1) * kPlaceBytes;
        }
    }
    void remove_all() const override {
        if (forget_) forget_();
    }
    bool lasting() const noexcept override { return !forget_; }
    FifoPlace fifos() const override {  // no two memories have one inode
        return {std::make_shared<const sys::Fd>(sys::open_directory(fifos_)),
                "memory-" + std::to_string(sys::inode_of(fd_)) + "."};
    }

private:
    sys::Fd fd_;
    std::function<void()> forget_;
    std::string fifos_;
    sys::Mapping table_;

    static uint64_t offset_of(const SlabPlace& place, Part part) noexcept {
        return place.id() * kPlaceBytes + static_cast<uint64_t>(part) * kPartBytes;
    }
    /// The right to make room in a place, or not: one has it at a time.
    class Room {
    public:
        Room(const sys::Fd& any, uint64_t id)
            : fd_(sys::reopen(any, true)), id_(id), ours_(sys::lock_byte(fd_, kRoomLocks + id)) {}
        Room(const Room&) = delete;
        Room& operator=(const Room&) = delete;
        ~Room() {
            if (ours_) sys::unlock_byte(fd_, kRoomLocks + id_);  // a child forked meanwhile keeps the description
        }
        explicit operator bool() const noexcept { return ours_; }
        void give_back() const noexcept { sys::give_back(fd_, id_ * kPlaceBytes, kPlaceBytes); }

    private:
        sys::Fd fd_;
        uint64_t id_;
        bool ours_;
    };

    Block at(const SlabPlace& place, Part part, bool writable) const {
        return {sys::reopen(fd_, writable), offset_of(place, part), 0, address};
    }
    /// From here on the place is mapped, by whoever has the block. Nobody locks this byte exclusively: it cannot fail for long.
    void share(const Block& block, const SlabPlace& place) const {
        if (!sys::share_byte(block.file, kMapLocks + place.id())) sys::fail_errno("cannot lock a part of " + address);
    }
    bool mapped(uint64_t id) const noexcept { return sys::byte_locked(fd_, kMapLocks + id); }

    void sweep_place(uint64_t id) const noexcept {
        if (named(id) || mapped(id)) return;  // mostly; what was seen without the room does not count below
        try {
            const Room room(fd_, id);
            if (room && !mapped(id) && !named(id) && !mapped(id)) room.give_back();
        } catch (const Error&) {  // no descriptor left: others do it, or the next sweep
        }
    }

    const LaneRecord& record(uint64_t lane) const noexcept {
        return reinterpret_cast<const LaneRecord*>(table_.data() + kLanesOffset)[lane];
    }
    /// Does the directory of the lane have this slab? Once it has not, it never will again.
    bool in_table(const SlabPlace& place) const noexcept {
        const LaneRecord& lane = record(place.lane);
        const uint64_t w = lane.state.load(seq_cst);
        return count_in(w) == place.join && state_in<LaneState>(w) != LaneState::free &&
               lane.slabs[place.cell].slab.load(seq_cst) == cell_word(place.join, place.number);
    }
    /// Does any directory have a slab in this place?
    bool named(uint64_t id) const noexcept {
        const LaneRecord& lane = record((id - 1) / kMaxSlabs);
        return state_in<LaneState>(lane.state.load(seq_cst)) != LaneState::free &&
               lane.slabs[(id - 1) % kMaxSlabs].slab.load(seq_cst) != 0;
    }
};

/// An anonymous channel: found by whoever has a descriptor of its memory.
class Anonymous final : public Names {
public:
    static constexpr uint64_t kGeneration = 1;
    Anonymous() = default;  // to make one
    explicit Anonymous(const sys::Fd& any) : fd_(sys::reopen(any, true)) {}

    std::string address(const std::string& name) const override { return "anonymous://" + name; }
    std::vector<uint64_t> generations(const std::string&) const override { return {kGeneration}; }
    OpenedFile make(const std::string& name, uint64_t, uint64_t bytes) const override {
        return Memory::make_channel(address(name), bytes, nullptr);
    }
    bool publish(const OpenedFile&, const std::string&, uint64_t) const override { return true; }
    OpenedFile open(const std::string& name, uint64_t) const override {
        return Memory::open_channel(address(name), fd_, nullptr);
    }
    FifoPlace fifos(const std::string&) const override { return {}; }  // its channel is always there
    void watch(uint64_t) const override {}

private:
    sys::Fd fd_;
};

/// The named channels inside this process: memory://.
class Process final : public Names {
public:
    std::string address(const std::string& name) const override { return "memory://" + name; }
    std::vector<uint64_t> generations(const std::string& name) const override {
        std::lock_guard guard(table_->lock);
        std::vector<uint64_t> found;
        for (auto it = table_->channels.lower_bound({name, 0}); it != table_->channels.end() && it->first.first == name; ++it)
            found.push_back(it->first.second);
        return found;
    }
    OpenedFile make(const std::string& name, uint64_t generation, uint64_t bytes) const override {
        return Memory::make_channel(address(name), bytes, forget(name, generation));
    }
    bool publish(const OpenedFile& file, const std::string& name, uint64_t generation) const override {
        auto fd = std::make_shared<const sys::Fd>(sys::reopen(file.fd, true));  // not the one that has its life lock
        std::lock_guard guard(table_->lock);
        const bool added = table_->channels.emplace(Key{name, generation}, std::move(fd)).second;
        table_->changed.notify_all();
        return added;
    }
    OpenedFile open(const std::string& name, uint64_t generation) const override {
        std::shared_ptr<const sys::Fd> fd;
        {
            std::lock_guard guard(table_->lock);
            const auto it = table_->channels.find({name, generation});
            if (it == table_->channels.end()) return {};
            fd = it->second;
        }
        return Memory::open_channel(address(name), *fd, forget(name, generation));
    }
    FifoPlace fifos(const std::string& name) const override {
        return {std::make_shared<const sys::Fd>(sys::open_directory(fifo_directory().get())),
                "memory-" + std::to_string(::getpid()) + "-" + name + "."};
    }
    void watch(uint64_t ns) const override {
        std::unique_lock guard(table_->lock);
        table_->changed.wait_for(guard, std::chrono::nanoseconds(ns));
    }

    // Around a fork: channels inside the parent are not the child's.
    void before_fork() const { table_->lock.lock(); }
    void after_fork_in_parent() const { table_->lock.unlock(); }
    void after_fork_in_child() {
        table_->channels.clear();
        new std::shared_ptr<Table>(table_);  // threads that are not here wait in it: never destroyed
        table_ = std::make_shared<Table>();
    }

private:
    using Key = std::pair<std::string, uint64_t>;
    struct Table {
        std::mutex lock;
        std::condition_variable changed;
        std::map<Key, std::shared_ptr<const sys::Fd>> channels;
    };
    std::shared_ptr<Table> table_ = std::make_shared<Table>();

    std::function<void()> forget(const std::string& name, uint64_t generation) const {
        return [table = table_, key = Key{name, generation}] {
            std::lock_guard guard(table->lock);
            table->channels.erase(key);
            table->changed.notify_all();
        };
    }
};

}  // namespace psyne
