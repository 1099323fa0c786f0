// Where the memory of channels lies, behind one face: files of a directory (directory.hpp), or one memory without a
// name (memory.hpp). What others wrote there is not believed; each user checks what it reads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <psyne/layout.hpp>

namespace psyne {

/// Which slab of which lane.
struct SlabPlace {
    uint64_t lane = 0, join = 0;    // the lane, and the join number of its sender
    uint64_t cell = 0, number = 0;  // where the slab stands in the lane's directory, and its number
    uint64_t id() const noexcept { return slab_id(lane, cell); }
};

/// The memories of a slab.
enum class Part : uint64_t { slab, acks, extents };

/// A stretch of shared memory, to be mapped. Whoever maps it keeps the file open: that says that the memory is in use.
struct Block {
    sys::Fd file;
    uint64_t offset = 0, bytes = 0;
    std::string name;  // for people
    explicit operator bool() const noexcept { return static_cast<bool>(file); }
    sys::Mapping map(bool writable, sys::Populate populate) const {
        return sys::map(file, bytes, writable, populate, offset);
    }
};

/// Where FIFOs lie that wake members (bell.hpp), and what their names begin with.
struct FifoPlace {
    std::shared_ptr<const sys::Fd> directory;
    std::string prefix;
};

/// The memory of one channel.
class Storage {
public:
    explicit Storage(std::string where) : address(std::move(where)) {}
    virtual ~Storage() = default;

    const std::string address;  // "ipc://camera"

    /// Is there a place for a slab among those of a lane that has none? Others may still map what was there before.
    virtual bool vacant(uint64_t) const { return true; }
    /// Memory for a part of a slab, zero, its beginning reserved. No block for a slab in a place that somebody maps: the
    /// next cell may do. The other parts are made while the block of their slab is kept. Throws Errc::no_space.
    virtual Block make(const SlabPlace& place, Part part, uint64_t bytes, uint64_t reserved) const = 0;
    /// Reserves another piece of it. Throws Errc::no_space.
    virtual void reserve(const SlabPlace& place, Part part, uint64_t at, uint64_t bytes) const = 0;
    /// Makes it openable, once its header is written; false when there is one already.
    virtual bool publish(const Block& block) const = 0;
    /// What another end made; an empty block when it is gone for ever. Other parts as in make().
    virtual Block open(const SlabPlace& place, Part part, bool writable) const = 0;
    /// Removes a slab that was let go by all; those who map it keep it. May be done again: a memory without files gives
    /// pages back once no cell names it and nobody maps it.
    virtual void remove(const SlabPlace& place) const noexcept = 0;
    /// Removes all that a lane may have left, also what nobody could find yet. May be done again.
    virtual void remove_lane(uint64_t join) const noexcept = 0;
    /// Gives back what belongs to no lane (any more) and is mapped by nobody.
    virtual void sweep() const noexcept {}
    /// Removes the whole channel, which is closed.
    virtual void remove_all() const = 0;
    virtual FifoPlace fifos() const = 0;
    /// Stays open when nobody is in it: it goes with the last who has its memory.
    virtual bool lasting() const noexcept { return false; }
};
using StoragePtr = std::shared_ptr<const Storage>;

/// A channel file, opened by a description of one's own: life locks belong to descriptions.
struct OpenedFile {
    sys::Fd fd;
    uint64_t bytes = 0;
    std::string path;  // for people
    StoragePtr storage;
};

/// Where channels are found by their names.
class Names {
public:
    virtual ~Names() = default;
    virtual std::string address(const std::string& name) const = 0;
    /// The generations of a channel that are there, in order.
    virtual std::vector<uint64_t> generations(const std::string& name) const = 0;
    /// A channel file that nobody finds yet. Throws Errc::no_space.
    virtual OpenedFile make(const std::string& name, uint64_t generation, uint64_t bytes) const = 0;
    /// Lets others find it; false when that generation exists.
    virtual bool publish(const OpenedFile& file, const std::string& name, uint64_t generation) const = 0;
    /// One generation; without a descriptor when it is gone.
    virtual OpenedFile open(const std::string& name, uint64_t generation) const = 0;
    /// Where those have their FIFOs who wait for a channel of this name.
    virtual FifoPlace fifos(const std::string& name) const = 0;
    /// Waits until channels came or went, at most `ns`.
    virtual void watch(uint64_t ns) const = 0;
};
using NamesPtr = std::shared_ptr<const Names>;

}  // namespace psyne
