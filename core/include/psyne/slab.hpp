// A slab: `capacity` slots of one lane with their ready words, side columns and ack words, mapped.
#pragma once

#include <algorithm>
#include <string>

#include <psyne/layout.hpp>
#include <psyne/word.hpp>

namespace psyne {

/// What a sender asks for.
struct SlabSpec {
    uint64_t payload_bytes = 0;
    uint64_t stride = 0;
    uint64_t capacity = 0;
    uint32_t stages = 0;
    bool count_dropped = false;
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
    std::byte* payload = nullptr;
    SlabHeader* header = nullptr;

    Atomic64* row(uint32_t stage) const noexcept {
        return reinterpret_cast<Atomic64*>(acks_.data() + kHeaderBytes + stage * row_bytes_);
    }
    std::byte* at(uint64_t slot) const noexcept { return payload + slot * stride; }
    uint64_t position(uint64_t slot, uint64_t lap) const noexcept { return first + (lap - 1) * capacity + slot; }

    static std::string slab_name(const std::string& prefix, uint64_t join, uint64_t number) {
        return prefix + std::to_string(join) + "." + std::to_string(number) + ".slab";
    }
    static std::string acks_name(const std::string& prefix, uint64_t join, uint64_t number) {
        return prefix + std::to_string(join) + "." + std::to_string(number) + ".acks";
    }

    /// Makes slab and acks complete, prefaulted and under their names. Throws Errc::no_space.
    static Slab create(const sys::Fd& directory, const std::string& prefix, uint64_t join, const SlabSpec& spec) {
        const uint64_t column = round_up(spec.capacity * 8, kLine);
        uint64_t room = 0;
        if (__builtin_mul_overflow(spec.capacity, spec.stride, &room) || room > 1ull << 56)
            fail(Errc::no_space, "no space for " + std::to_string(spec.capacity) + " slots of " +
                                     std::to_string(spec.stride) + " bytes; lower capacity=");
        const uint64_t dropped = spec.count_dropped ? kHeaderBytes + column : 0;
        const uint64_t payload =
            round_up(kHeaderBytes + column * (spec.count_dropped ? 2 : 1), std::max<uint64_t>(4096, sys::page_size()));
        const uint64_t bytes = round_up(payload + room, kSlabUnit);
        const uint64_t row = round_up(spec.capacity * 8, 4096);
        const uint64_t acks_bytes = round_up(kHeaderBytes + row * spec.stages, kSlabUnit);

        sys::Fd slab_file = sys::make_unnamed(directory, bytes);
        sys::Fd acks_file = sys::make_unnamed(directory, acks_bytes);
        Slab slab;
        slab.bytes_ = sys::map(slab_file, bytes, true, sys::Populate::yes);
        slab.acks_ = sys::map(acks_file, acks_bytes, true, sys::Populate::yes);
        auto* header = new (slab.bytes_.data()) SlabHeader{};
        header->shape = {kSlabMagic, kLayoutVersion, kAbi, bytes, join, 0, 0, spec.capacity, spec.stride,
                         kHeaderBytes, dropped, payload};
        const AcksShape acks{kAcksMagic, kLayoutVersion, kAbi, acks_bytes, join, 0, row, spec.stages};
        *reinterpret_cast<AcksShape*>(slab.acks_.data()) = acks;
        slab.resolve(header->shape, acks);
        if (!sys::publish(directory, acks_file, acks_name(prefix, join, 0)) ||
            !sys::publish(directory, slab_file, slab_name(prefix, join, 0)))
            fail(Errc::incompatible, "a slab of " + prefix + " is there already; remove the files of this channel");
        return slab;
    }

    /// Maps a slab that another end made; an empty one when it is gone. Payload writable only where asked.
    static Slab attach(const sys::Fd& directory, const std::string& prefix, uint64_t join, uint64_t payload_bytes,
                       bool writable, sys::Populate populate) {
        Slab slab;
        sys::Fd slab_file = sys::open_file(directory, slab_name(prefix, join, 0), writable);
        sys::Fd acks_file = sys::open_file(directory, acks_name(prefix, join, 0), true);
        if (!slab_file || !acks_file) return slab;
        const uint64_t bytes = sys::checked_size(slab_file, slab_name(prefix, join, 0));
        const uint64_t acks_bytes = sys::checked_size(acks_file, acks_name(prefix, join, 0));
        if (bytes < kHeaderBytes || acks_bytes < kHeaderBytes) corrupted(prefix, join, "too short");
        slab.bytes_ = sys::map(slab_file, bytes, writable, populate);
        slab.acks_ = sys::map(acks_file, acks_bytes, true, populate);
        const SlabShape h = reinterpret_cast<const SlabHeader*>(slab.bytes_.data())->shape;
        const AcksShape a = *reinterpret_cast<const AcksShape*>(slab.acks_.data());
        uint64_t room = 0, rows = 0;
        if (h.magic != kSlabMagic || a.magic != kAcksMagic || h.version != kLayoutVersion ||
            a.version != kLayoutVersion || h.abi != kAbi || a.abi != kAbi || h.file_bytes != bytes ||
            a.file_bytes != acks_bytes || h.join != join || a.join != join)
            corrupted(prefix, join, "foreign headers");
        if (h.capacity == 0 || h.stride < payload_bytes || h.payload_offset > bytes || h.ready_offset != kHeaderBytes ||
            h.capacity > bytes / 8 || h.payload_offset < kHeaderBytes + h.capacity * 8 ||
            (h.dropped_offset != 0 &&
             (h.dropped_offset < kHeaderBytes + h.capacity * 8 || h.dropped_offset % 8 != 0 ||
              h.dropped_offset > h.payload_offset - h.capacity * 8)) ||
            __builtin_mul_overflow(h.capacity, h.stride, &room) || room > bytes - h.payload_offset ||
            a.rows > kMaxStages || a.row_bytes < h.capacity * 8 || a.row_bytes % 8 != 0 ||
            __builtin_mul_overflow(a.rows, a.row_bytes, &rows) || rows > acks_bytes - kHeaderBytes)
            corrupted(prefix, join, "sizes that do not fit the file");
        slab.resolve(h, a);
        return slab;
    }

    static void remove(const sys::Fd& directory, const std::string& prefix, uint64_t join) noexcept {
        sys::unlink_file(directory, slab_name(prefix, join, 0));
        sys::unlink_file(directory, acks_name(prefix, join, 0));
    }

    explicit operator bool() const noexcept { return header != nullptr; }

private:
    sys::Mapping bytes_, acks_;
    uint64_t row_bytes_ = 0;

    void resolve(const SlabShape& h, const AcksShape& a) noexcept {
        header = reinterpret_cast<SlabHeader*>(bytes_.data());
        ready = reinterpret_cast<Atomic64*>(bytes_.data() + h.ready_offset);
        dropped = h.dropped_offset ? reinterpret_cast<Atomic64*>(bytes_.data() + h.dropped_offset) : nullptr;
        payload = bytes_.data() + h.payload_offset;
        capacity = h.capacity;
        stride = h.stride;
        first = h.first;
        stages = a.rows;
        row_bytes_ = a.row_bytes;
    }

    [[noreturn]] static void corrupted(const std::string& prefix, uint64_t join, const char* why) {
        fail(Errc::incompatible, "slab " + slab_name(prefix, join, 0) + " has " + why +
                                     "; its sender runs another version of psyne, or the file was damaged");
    }
};

}  // namespace psyne
