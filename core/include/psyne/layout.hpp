// The bytes that processes share, written down once. Nothing here is a pointer, a lock or a vtable.
//
//  <name>.<generation>.channel               one per channel, everybody maps it writable
//  ┌───────────────┬────────────────────────┬─────────────────┬─────────────────┬───────────────┐
//  │ ChannelHeader │ MemberRecord[128]      │ StageRecord[32] │ LaneRecord[64]  │ schema (text) │
//  └───────────────┴────────────────────────┴─────────────────┴─────────────────┴───────────────┘
//  <name>.<generation>.<join>.<number>.slab  one or more per sender, written by it and by mutating stages
//  ┌────────────┬───────────────────┬──────────────────────┬───────────────────────────────┐
//  │ SlabHeader │ ready words[slot] │ side columns[slot]   │ payload: slot 0 │ slot 1 │ …   │
//  └────────────┴───────────────────┴──────────────────────┴───────────────────────────────┘
//  <name>.<generation>.<join>.<number>.acks  beside each slab, written by the stages
//  ┌────────────┬──────────────────────────┐
//  │ AcksShape  │ ack words[stage][slot]   │   32 rows; those of stages that nobody added have no pages
//  └────────────┴──────────────────────────┘
//  <name>.<generation>.<join>.<number>.extents  beside a slab whose messages may be larger than its slots
//  ┌─────────────────┬─────────────────┬─
//  │ extent of slot 0│ extent of slot 1│ …     sparse: only those in use have pages
//  └─────────────────┴─────────────────┴─
//  <name>.<generation>.<join>.wake           a FIFO, for members that an event loop waits for (bell.hpp)
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <psyne/atomic.hpp>

namespace psyne {

inline constexpr uint32_t kLayoutVersion = 5;
inline constexpr uint64_t kLine = 128;  // two cache lines: neighbours are fetched in pairs
inline constexpr uint64_t kHeaderBytes = 4096;
inline constexpr uint64_t kSlabUnit = 64 * 1024;

inline constexpr uint64_t kChannelMagic = 0x6c6e6863'6e797370;  // "psynchnl"
inline constexpr uint64_t kSlabMagic = 0x62616c73'6e797370;     // "psynslab"
inline constexpr uint64_t kAcksMagic = 0x736b6361'6e797370;     // "psynacks"

inline constexpr uint32_t kMaxReceivers = 64;  // ids 0 … 63: one bit each in an idle mask
inline constexpr uint32_t kMaxLanes = 64;      // the sender of lane i has id 64 + i
inline constexpr uint32_t kMaxMembers = kMaxReceivers + kMaxLanes;
inline constexpr uint32_t kMaxStages = 32;
inline constexpr uint32_t kMaxSlabs = 32;  // of a lane at a time
inline constexpr uint32_t kNameBytes = 48;
inline constexpr uint32_t kTapStage = ~0u;  // in place of a stage: a tap, which has a receiver's id

enum class Pattern : uint32_t { spsc, spmc, mpsc, mpmc };
constexpr bool one_sender(Pattern p) noexcept { return p == Pattern::spsc || p == Pattern::spmc; }
constexpr bool one_member(Pattern p) noexcept { return p == Pattern::spsc || p == Pattern::mpsc; }

enum class ChannelState : uint64_t { proposed, open, closed };
enum class MemberState : uint64_t { free, active, leaving, swept };
enum class LaneState : uint64_t { free, open, ended, lost };  // lost: its sender died
enum class StageState : uint64_t { free, proposed, open, draining };

/// A 64-bit word that counts in its upper 56 bits and tells a state in the lower 8.
template <class State>
constexpr uint64_t stated(uint64_t count, State state) noexcept {
    return count << 8 | static_cast<uint64_t>(state);
}
template <class State>
constexpr State state_in(uint64_t word) noexcept {
    return static_cast<State>(word & 0xff);
}
constexpr uint64_t count_in(uint64_t word) noexcept { return word >> 8; }

/// Of a stage added later: its generation, and how many have joined it (while it is proposed: who proposes it).
constexpr uint64_t stage_word(uint64_t generation, uint64_t joins, StageState state) noexcept {
    return generation << 36 | (joins & 0xfffffff) << 8 | static_cast<uint64_t>(state);
}
constexpr uint64_t generation_in(uint64_t word) noexcept { return word >> 36; }
constexpr uint64_t joins_in(uint64_t word) noexcept { return word >> 8 & 0xfffffff; }

/// A version, counted up by each change, and a bit for each stage added later that is there.
constexpr uint64_t graph_word(uint64_t version, uint32_t added) noexcept { return version << 32 | added; }
constexpr uint32_t added_in(uint64_t graph) noexcept { return static_cast<uint32_t>(graph); }

/// Of a claim: its lower half, and how many of the positions a ring and more before it have no message.
constexpr uint64_t skips_word(uint64_t claim, uint64_t skips) noexcept { return claim << 32 | (skips & 0xffffffff); }

/// Names a slab of a lane, whatever lane had the cell before.
constexpr uint64_t cell_word(uint64_t join, uint64_t number) noexcept { return join << 40 | (number + 1); }
constexpr uint64_t number_in(uint64_t cell) noexcept { return (cell & 0xff'ffff'ffff) - 1; }

/// Names a slab of a channel.
constexpr uint64_t slab_id(uint64_t lane, uint64_t cell) noexcept { return 1 + lane * kMaxSlabs + cell; }

/// In a slab's column of extents: the bytes of the extent that has the message, and whether it was given back.
inline constexpr uint64_t kGone = 1ull << 63;
constexpr uint64_t extent_bytes(uint64_t w) noexcept { return w & ~kGone; }

/// A short text that may be read while another process replaces it: garbled at worst.
struct SharedName {
    Atomic64 words[kNameBytes / 8];
};

/// What never changes in a channel file. Openers check and use a private copy.
struct ChannelShape {
    uint64_t magic;
    uint32_t version;
    uint32_t abi;
    uint64_t file_bytes;
    uint64_t generation;
    uint64_t payload_bytes;  // of one message
    uint64_t schema_offset;
    uint64_t schema_bytes;
    uint32_t stage_count;
    Pattern pattern;
};

struct ChannelHeader {
    ChannelShape shape;
    alignas(kLine) Atomic64 state;  // stated(joins, ChannelState)
    Atomic64 next_join;             // join numbers given out; never reused
    Atomic64 sender_holder;         // MemberRecord.state of the one sender, where the pattern allows one

    alignas(kLine) Atomic64 lanes_epoch;  // lanes opened so far; looked at by each receive
    Atomic64 lost_epoch;                  // lanes_epoch when a sender was last lost

    alignas(kLine) Atomic64 graph;  // graph_word(): the stages that were added later; looked at by each loan
    Atomic64 taps_idle;             // a bit per tap that sleeps

    alignas(kLine) Atomic64 senders_idle;  // a bit per lane whose sender sleeps
    Atomic32 fences_needed;                // wakers without a process-wide barrier

    alignas(kLine) Atomic64 late_wakes;  // sleeps that a time slice ended although a message was there
    Atomic64 redelivered;
    Atomic64 poisoned;  // messages skipped because three owners died on them
    Atomic64 dropped;   // half-changed messages taken out after their mutating owner died
};

struct alignas(kLine) MemberRecord {
    Atomic64 state;     // stated(join, MemberState)
    Atomic64 sweeping;  // 1 + id of the member that this one is burying; 0: none
    Atomic64 tap_at;    // slab_id() of the slab that a tap copies from; 0: none
    Atomic32 at_end;    // waits for the end of the channel: holds nothing unfinished
    Atomic32 stage;
    Atomic64 pid;
    Atomic64 start;          // of the process, in clock ticks since boot
    Atomic64 pid_namespace;
    SharedName name;              // of the program
    alignas(kLine) Atomic32 wakes;  // futex word, counted up by whoever wakes this member
    Atomic32 bell;                  // 1: it does not sleep on that word, an event loop watches its FIFO: ring it
};

struct alignas(kLine) StageRecord {
    SharedName name;
    Atomic32 after;      // a bit per stage directly before
    Atomic32 ancestors;  // a bit per stage before, directly or not
    Atomic32 mutates;
    Atomic32 redelivers;  // half-changed messages too
    alignas(kLine) Atomic64 idle;  // a bit per member that sleeps
    Atomic64 orphans;              // burials and returns so far; looked at by each receive
    Atomic64 word;                 // of a stage added later: stage_word()
    Atomic64 holder;               // MemberRecord.state of the one member, where the pattern allows one
};

/// A place for a slab in its lane. It keeps it until it is retired.
struct SlabCell {
    Atomic64 slab;    // cell_word() of the slab that is found here; 0: none
    Atomic64 bytes;   // that are reserved for it
};

struct alignas(kLine) LaneRecord {
    Atomic64 state;  // stated(join of the sender, LaneState)
    Atomic64 end;    // 0 while open, else 1 + the position after the last
    Atomic64 grows;  // 1: its sender adds slabs when it needs them
    alignas(kLine) Atomic64 from[kMaxStages];  // a stage's first position in this lane
    Atomic64 admitted[kMaxStages];             // of a stage added later: its generation; 0: not admitted
    SlabCell slabs[kMaxSlabs];                 // the lane's directory
};

/// What never changes in a slab. Openers check and use a private copy.
struct SlabShape {
    uint64_t magic;
    uint32_t version;
    uint32_t abi;
    uint64_t file_bytes;
    uint64_t join;    // of the sender: names the lane's generation
    uint64_t number;  // of the slab in its lane
    uint64_t first;   // position of slot 0 in lap 1
    uint64_t capacity;
    uint64_t stride;  // bytes from one payload to the next
    uint64_t room;    // bytes of them that a message may use
    // Side columns, a word for each slot, behind the ready words; 0: this slab has none.
    uint64_t dropped_offset;  // messages dropped just before this one
    uint64_t variant_offset;  // what lies in the slot: see variant.hpp
    uint64_t stamp_offset;    // monotonic clock at its commit, in ns
    uint64_t remote_offset;   // the same by the clock of a sender on another host
    uint64_t extent_offset;   // extent_word(): 0: the message lies in its slot
    uint64_t extent_stride;   // bytes from one extent to the next; 0: there are none
    uint64_t payload_offset;
};

struct SlabHeader {
    SlabShape shape;
    alignas(kLine) Atomic64 close;  // 0 while open, else 1 + the next slab's first position
    alignas(kLine) Atomic64 claim;  // positions below may be being written
    Atomic64 skips;                 // once there was one: skips_word() of the claim
    Atomic64 skips_before;          // 1 + positions before `first` that have no message; 0: not known yet
};

struct AcksShape {
    uint64_t magic;
    uint32_t version;
    uint32_t abi;
    uint64_t file_bytes;
    uint64_t join;
    uint64_t number;
    uint64_t row_bytes;
    uint64_t rows;  // of declared stages: those that have pages from the start
};

inline constexpr uint64_t kMembersOffset = kHeaderBytes;
inline constexpr uint64_t kStagesOffset = kMembersOffset + kMaxMembers * sizeof(MemberRecord);
inline constexpr uint64_t kLanesOffset = kStagesOffset + kMaxStages * sizeof(StageRecord);
inline constexpr uint64_t kSchemaOffset = kLanesOffset + kMaxLanes * sizeof(LaneRecord);
// Life locks are bytes beyond the end of any file: locking needs no bytes there.
inline constexpr uint64_t kLifeLocks = 1ull << 40;

static_assert(sizeof(ChannelHeader) <= kHeaderBytes && sizeof(SlabHeader) <= kHeaderBytes);
static_assert(sizeof(MemberRecord) == 2 * kLine && sizeof(StageRecord) == 2 * kLine);
static_assert(sizeof(LaneRecord) == 9 * kLine);
static_assert(offsetof(ChannelHeader, state) == kLine && offsetof(ChannelHeader, lanes_epoch) == 2 * kLine);
static_assert(sizeof(SlabShape) == kLine && offsetof(SlabHeader, close) == kLine && offsetof(SlabHeader, claim) == 2 * kLine);
static_assert(kSchemaOffset == 118784);
static_assert(std::is_standard_layout_v<ChannelHeader> && std::is_standard_layout_v<MemberRecord> &&
              std::is_standard_layout_v<StageRecord> && std::is_standard_layout_v<LaneRecord> &&
              std::is_standard_layout_v<SlabHeader> && std::is_standard_layout_v<AcksShape>);

/// Two builds that disagree on any of this cannot share memory. A wrong byte order shows in the magic.
inline constexpr uint32_t kAbi = static_cast<uint32_t>(sizeof(void*) << 24 | kLine << 16 | kMaxStages << 8 | kMaxLanes);

constexpr uint64_t round_up(uint64_t n, uint64_t to) noexcept { return (n + to - 1) / to * to; }

}  // namespace psyne
