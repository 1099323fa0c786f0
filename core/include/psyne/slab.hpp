// A slab: `capacity` slots of one lane with their ready words, side columns and ack words, mapped.
#pragma once

#include <algorithm>
#include <string>

#include <psyne/storage.hpp>
#include <psyne/word.hpp>

namespace psyne {

/// The words that a slab keeps for each slot besides ready and ack.
struct SideColumns {
    bool dropped = false;   // where the sender drops
    bool variants = false;  // where messages are of several types
    bool stamps = false;    // where the sender keeps the time
};

/// What a sender asks for.
struct SlabSpec {
    uint64_t payload_bytes = 0;
    uint64_t stride = 0;
    uint64_t capacity = 0;
    uint32_t stages = 0;
    SideColumns columns = {};
};

/// Payloads are aligned to their natural alignment, from 64 bytes up to 64, or to `align`.
constexpr uint64_t payload_stride(uint64_t bytes, uint64_t natural, uint64_t align) noexcept {
    const uint64_t unit = std::max({natural, align, bytes >= 64 ? uint64_t{64} : uint64_t{1}});
    return round_up(std::max(bytes, uint64_t{1}), unit);
}

/// Slots that fit into 32 MiB, 8 to 4096.
constexpr uint64_t default_capacity(uint64_t stride) noexcept {
    return std::clamp<uint64_t>((32ull << 20) / stride, 8, 4096);
}

/// Small messages get a power of two.
constexpr uint64_t rounded_capacity(uint64_t capacity, uint64_t stride) noexcept {
    if (stride >= 4096 || capacity > 1ull << 48) return capacity;  // the latter fails for lack of space
    uint64_t n = 1;
    while (n < capacity) n *= 2;
    return n;
}

class Slab {
public:
    uint64_t capacity = 0, stride = 0, first = 0, stages = 0;
    Atomic64* ready = nullptr;
    Atomic64* dropped = nullptr;
    Atomic64* variants = nullptr;
    Atomic64* stamps = nullptr;
    std::byte* payload = nullptr;
    SlabHeader* header = nullptr;

    Atomic64* row(uint32_t stage) const noexcept {
        return reinterpret_cast<Atomic64*>(acks_.data() + kHeaderBytes + stage * row_bytes_);
    }
    std::byte* at(uint64_t slot) const noexcept { return payload + slot * stride; }
    uint64_t position(uint64_t slot, uint64_t lap) const noexcept { return first + (lap - 1) * capacity + slot; }

    /// Makes slab and acks complete, prefaulted and to be found. Throws Errc::no_space.
    static Slab create(const Storage& storage, uint64_t join, const SlabSpec& spec) {
        const uint64_t column = round_up(spec.capacity * 8, kLine);
        uint64_t room = 0;
        if (__builtin_mul_overflow(spec.capacity, spec.stride, &room) || room > 1ull << 56)
            fail(Errc::no_space, "no space for " + std::to_string(spec.capacity) + " slots of " +
                                     std::to_string(spec.stride) + " bytes; lower capacity=");
        uint64_t words = kHeaderBytes + column;  // the end of what lies before the payload
        const auto side = [&](bool wanted) { return wanted ? std::exchange(words, words + column) : 0; };
        const uint64_t dropped = side(spec.columns.dropped), variants = side(spec.columns.variants),
                       stamps = side(spec.columns.stamps);
        const uint64_t payload = round_up(words, std::max<uint64_t>(4096, sys::page_size()));
        const uint64_t bytes = round_up(payload + room, kSlabUnit);
        const uint64_t row = row_size(spec.capacity);
        const uint64_t acks_bytes = acks_size(row), declared = kHeaderBytes + row * spec.stages;

        Block slab_block = storage.make(join, Part::slab, bytes, bytes);
        const Block acks_block = storage.make(join, Part::acks, acks_bytes, declared);
        Slab slab;
        slab.bytes_ = slab_block.map(true, sys::Populate::yes);
        slab.acks_ = acks_block.map(true, sys::Populate::no);
        sys::populate(slab.acks_.data(), declared, true);
        auto* header = new (slab.bytes_.data()) SlabHeader{};
        header->shape = {kSlabMagic, kLayoutVersion, kAbi, bytes, join, 0, 0, spec.capacity, spec.stride,
                         kHeaderBytes, dropped, variants, stamps, payload};
        const AcksShape acks{kAcksMagic, kLayoutVersion, kAbi, acks_bytes, join, 0, row, spec.stages};
        *reinterpret_cast<AcksShape*>(slab.acks_.data()) = acks;
        slab.resolve(header->shape, acks);
        if (!storage.publish(acks_block) || !storage.publish(slab_block))
            fail(Errc::incompatible, "a slab of " + storage.address + " is there already; remove the files of this channel");
        slab.keep(std::move(slab_block));
        return slab;
    }

    /// Maps a slab that another end made; an empty one when it is gone. Payload writable only where asked.
    static Slab attach(const Storage& storage, uint64_t join, uint64_t payload_bytes, bool writable,
                       sys::Populate populate) {
        Slab slab;
        Block slab_block = storage.open(join, Part::slab, writable);
        const Block acks_block = storage.open(join, Part::acks, true);
        if (!slab_block || !acks_block) return slab;
        const uint64_t bytes = slab_block.bytes, acks_bytes = acks_block.bytes;
        const std::string& where = slab_block.name;
        if (bytes < kHeaderBytes || acks_bytes < kHeaderBytes) corrupted(where, "too short");
        slab.bytes_ = slab_block.map(writable, populate);
        slab.acks_ = acks_block.map(true, sys::Populate::no);
        const SlabShape h = reinterpret_cast<const SlabHeader*>(slab.bytes_.data())->shape;
        const AcksShape a = *reinterpret_cast<const AcksShape*>(slab.acks_.data());
        uint64_t room = 0;
        if (h.magic != kSlabMagic || a.magic != kAcksMagic || h.version != kLayoutVersion ||
            a.version != kLayoutVersion || h.abi != kAbi || a.abi != kAbi || h.file_bytes != bytes ||
            a.file_bytes != acks_bytes || h.join != join || a.join != join)
            corrupted(where, "foreign headers");
        if (h.capacity == 0 || h.stride < payload_bytes || h.payload_offset > bytes || h.ready_offset != kHeaderBytes ||
            h.capacity > bytes / 8 || h.capacity > 1ull << 48 || h.payload_offset < kHeaderBytes + h.capacity * 8 ||
            h.payload_offset % kHeaderBytes != 0 || (payload_bytes >= 64 && h.stride % 64 != 0) ||
            !side_fits(h, h.dropped_offset) || !side_fits(h, h.variant_offset) || !side_fits(h, h.stamp_offset) ||
            __builtin_mul_overflow(h.capacity, h.stride, &room) || room > bytes - h.payload_offset ||
            a.rows > kMaxStages || a.row_bytes != row_size(h.capacity) || acks_bytes != acks_size(a.row_bytes) ||
            kHeaderBytes + a.rows * a.row_bytes > sys::bytes_in_use(acks_block.file))
            corrupted(where, "sizes that do not fit the file");
        if (populate == sys::Populate::yes) sys::populate(slab.acks_.data(), kHeaderBytes + a.rows * a.row_bytes, true);
        slab.resolve(h, a);
        slab.keep(std::move(slab_block));
        return slab;
    }

    /// The pages of `bytes` bytes at `data`, copy-on-write: what nobody wrote to here still follows the slot.
    /// `view` is where they begin in the mapping.
    sys::Mapping private_pages(const std::byte* data, uint64_t bytes, std::byte*& view) const {
        const auto at = static_cast<uint64_t>(data - bytes_.data());
        const uint64_t from = at / sys::page_size() * sys::page_size();
        sys::Mapping pages = sys::map_private(file_, file_offset_ + from, at - from + bytes);
        view = pages.data() + (at - from);
        return pages;
    }

    /// Pages for the row of a stage that was added later. Throws Errc::no_space.
    void back_row(const Storage& storage, uint64_t join, uint32_t stage) const {
        const uint64_t at = kHeaderBytes + stage * row_bytes_;
        storage.reserve(join, Part::acks, at, row_bytes_);
        sys::populate(acks_.data() + at, row_bytes_, true);
    }

    explicit operator bool() const noexcept { return header != nullptr; }

private:
    static constexpr uint64_t row_size(uint64_t capacity) noexcept { return round_up(capacity * 8, kHeaderBytes); }
    static constexpr uint64_t acks_size(uint64_t row) noexcept { return round_up(kHeaderBytes + kMaxStages * row, kSlabUnit); }

    sys::Fd file_;  // for private pages; in some storages it says that the memory is mapped: let go after it is not
    uint64_t file_offset_ = 0;
    sys::Mapping bytes_, acks_;
    uint64_t row_bytes_ = 0;

    /// Between the ready words and the payload, if there is such a column at all.
    static bool side_fits(const SlabShape& h, uint64_t at) noexcept {
        return at == 0 || (at >= kHeaderBytes + h.capacity * 8 && at % 8 == 0 && at <= h.payload_offset - h.capacity * 8);
    }

    void keep(Block&& block) noexcept {
        file_offset_ = block.offset;
        file_ = std::move(block.file);
    }

    void resolve(const SlabShape& h, const AcksShape& a) noexcept {
        header = reinterpret_cast<SlabHeader*>(bytes_.data());
        ready = reinterpret_cast<Atomic64*>(bytes_.data() + h.ready_offset);
        const auto side = [&](uint64_t at) { return at ? reinterpret_cast<Atomic64*>(bytes_.data() + at) : nullptr; };
        dropped = side(h.dropped_offset);
        variants = side(h.variant_offset);
        stamps = side(h.stamp_offset);
        payload = bytes_.data() + h.payload_offset;
        capacity = h.capacity;
        stride = h.stride;
        first = h.first;
        stages = a.rows;
        row_bytes_ = a.row_bytes;
    }

    [[noreturn]] static void corrupted(const std::string& where, const char* why) {
        fail(Errc::incompatible, "the slab in " + where + " has " + why +
                                     "; its sender runs another version of psyne, or the file was damaged");
    }
};

}  // namespace psyne
