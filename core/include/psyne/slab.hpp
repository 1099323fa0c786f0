// A slab: `capacity` slots of one lane with their ready words, side columns and ack words, mapped.
#pragma once

#include <algorithm>
#include <memory>
#include <string>

#include <psyne/storage.hpp>
#include <psyne/word.hpp>

namespace psyne {

/// The words that a slab keeps for each slot besides ready and ack.
struct SideColumns {
    bool dropped = false;   // where the sender drops
    bool variants = false;  // where messages are of several types
    bool stamps = false;    // where the sender keeps the time
    bool remote = false;    // where messages come over a network: the time that their first sender kept
    bool extents = false;   // where messages may be larger than a slot
};

/// What a sender asks for.
struct SlabSpec {
    uint64_t room = 0;  // bytes of a slot that a message may use
    uint64_t stride = 0;
    uint64_t capacity = 0;
    uint32_t stages = 0;
    SideColumns columns = {};
    uint64_t most = 0;  // bytes of the largest message, where it may have an extent
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

/// The descriptors of what a slab maps, to map it once more. In some storages they say that the memory is mapped.
struct SlabFiles {
    sys::Fd slab, extents;
};

/// Pages of a slab's files: all payloads, or the extent of one message.
struct Stretch {
    std::shared_ptr<const SlabFiles> files;
    const sys::Fd* file = nullptr;  // one of them
    uint64_t offset = 0, bytes = 0;
    uint64_t at = 0;       // where in it the byte lies that was asked for
    bool lasting = false;  // it keeps its pages as long as the slab is there
};

class Slab {
public:
    SlabPlace place;
    uint64_t capacity = 0, stride = 0, room = 0, first = 0, stages = 0;
    Atomic64* ready = nullptr;
    Atomic64* dropped = nullptr;
    Atomic64* variants = nullptr;
    Atomic64* stamps = nullptr;
    Atomic64* remote = nullptr;
    Atomic64* extents = nullptr;
    std::byte* payload = nullptr;
    SlabHeader* header = nullptr;

    Atomic64* row(uint32_t stage) const noexcept {
        return reinterpret_cast<Atomic64*>(acks_.data() + kHeaderBytes + stage * row_bytes_);
    }
    std::byte* at(uint64_t slot) const noexcept { return payload + slot * stride; }
    /// The bytes of a message that is no longer than its slot, or has the extent of it.
    std::byte* data(uint64_t slot) const noexcept { return extent(slot) == 0 ? at(slot) : extent_at(slot); }
    std::byte* extent_at(uint64_t slot) const noexcept { return extents_.data() + slot * extent_stride_; }
    /// Bytes that a message may use in the place where it lies. What others wrote there is not more than there is.
    uint64_t room_of(uint64_t slot) const noexcept {
        const uint64_t bytes = extent(slot);
        return bytes == 0 ? room : std::min(bytes, extent_stride_);
    }
    /// The same of a message that was found in its extent.
    uint64_t room_beside(uint64_t slot) const noexcept { return std::min(extent(slot), extent_stride_); }
    /// Bytes of the extent that has the message of a slot; 0: it lies in the slot.
    uint64_t extent(uint64_t slot) const noexcept { return extents ? extent_bytes(extents[slot].load(relaxed)) : 0; }
    uint64_t extent_stride() const noexcept { return extent_stride_; }
    /// Of the slab and its acks; extents come on top.
    uint64_t reserved() const noexcept { return reserved_; }
    uint64_t position(uint64_t slot, uint64_t lap) const noexcept { return first + (lap - 1) * capacity + slot; }
    /// The position behind its last, once it is closed.
    uint64_t end() const noexcept {
        const uint64_t close = header->close.load(acquire);  // CLOSE
        return close == 0 ? ~0ull : close - 1;
    }

    /// What create() will reserve.
    static uint64_t bytes_of(const SlabSpec& spec) { return sizes_of(spec).slab + kHeaderBytes + row_size(spec.capacity) * spec.stages; }

    /// Makes a slab and what lies beside it complete, prefaulted and openable; an empty one when somebody still maps the
    /// place. Throws Errc::no_space.
    static Slab create(const Storage& storage, const SlabPlace& place, const SlabSpec& spec, uint64_t first = 0) {
        const Sizes sizes = sizes_of(spec);
        const uint64_t row = row_size(spec.capacity), acks_bytes = acks_size(row), declared = kHeaderBytes + row * spec.stages;
        Block slab_block = storage.make(place, Part::slab, sizes.slab, sizes.slab);
        if (!slab_block) return {};
        const Block acks_block = storage.make(place, Part::acks, acks_bytes, declared);
        Slab slab;
        slab.place = place;
        slab.bytes_ = slab_block.map(true, sys::Populate::yes);
        slab.acks_ = acks_block.map(true, sys::Populate::no);
        sys::populate(slab.acks_.data(), declared, true);
        auto* header = new (slab.bytes_.data()) SlabHeader{};
        header->shape = sizes.shape;
        header->shape.join = place.join;
        header->shape.number = place.number;
        header->shape.first = first;
        const AcksShape acks{kAcksMagic, kLayoutVersion, kAbi, acks_bytes, place.join, place.number, row, spec.stages};
        *reinterpret_cast<AcksShape*>(slab.acks_.data()) = acks;
        if (const uint64_t bytes = header->shape.extent_stride * spec.capacity; bytes != 0) {
            Block extents = storage.make(place, Part::extents, bytes, 0);
            slab.extents_ = extents.map(true, sys::Populate::no);
            if (!storage.publish(extents)) there_already(storage);
            slab.keep_extents(std::move(extents));
        }
        slab.resolve(header->shape, acks);
        if (!storage.publish(acks_block) || !storage.publish(slab_block)) there_already(storage);
        slab.keep(std::move(slab_block));
        return slab;
    }
    /// Where it begins in its lane, once that is known: before anybody can find it.
    void begin_at(uint64_t position) noexcept {
        header->shape.first = first = position;
    }

    /// Maps a slab that another end made; an empty one when it is gone. Payload writable only where asked.
    static Slab attach(const Storage& storage, const SlabPlace& place, uint64_t payload_bytes, bool writable,
                       sys::Populate populate) {
        Block slab_block = storage.open(place, Part::slab, writable);
        if (!slab_block) return {};
        const Block acks_block = storage.open(place, Part::acks, true);
        if (!acks_block) return {};
        Slab slab;  // unmapped before the block is let go, also when it is refused
        const uint64_t bytes = slab_block.bytes, acks_bytes = acks_block.bytes;
        const std::string& where = slab_block.name;
        if (bytes < kHeaderBytes || acks_bytes < kHeaderBytes) corrupted(where, "too short");
        slab.place = place;
        slab.bytes_ = slab_block.map(writable, populate);
        slab.acks_ = acks_block.map(true, sys::Populate::no);
        const SlabShape h = reinterpret_cast<const SlabHeader*>(slab.bytes_.data())->shape;
        const AcksShape a = *reinterpret_cast<const AcksShape*>(slab.acks_.data());
        uint64_t room = 0, extents = 0;
        if (h.magic != kSlabMagic || a.magic != kAcksMagic || h.version != kLayoutVersion ||
            a.version != kLayoutVersion || h.abi != kAbi || a.abi != kAbi || h.file_bytes != bytes ||
            a.file_bytes != acks_bytes || h.join != place.join || a.join != place.join || h.number != place.number ||
            a.number != place.number)
            corrupted(where, "foreign headers");
        const bool extended = h.extent_offset != 0 && h.extent_stride >= payload_bytes;
        if (h.capacity == 0 || h.stride < h.room || (h.room < payload_bytes && !extended) || h.payload_offset > bytes ||
            h.capacity > bytes / 8 || h.capacity > 1ull << 48 ||
            h.payload_offset < kHeaderBytes + h.capacity * 8 || h.payload_offset % kHeaderBytes != 0 ||
            (payload_bytes >= 64 && h.stride % 64 != 0) || !side_fits(h, h.dropped_offset) ||
            !side_fits(h, h.variant_offset) || !side_fits(h, h.stamp_offset) || !side_fits(h, h.remote_offset) ||
            !side_fits(h, h.extent_offset) ||
            (h.extent_offset == 0) != (h.extent_stride == 0) || h.extent_stride % 64 != 0 ||
            __builtin_mul_overflow(h.capacity, h.extent_stride, &extents) ||
            __builtin_mul_overflow(h.capacity, h.stride, &room) || room > bytes - h.payload_offset ||
            a.rows > kMaxStages || a.row_bytes != row_size(h.capacity) || acks_bytes != acks_size(a.row_bytes) ||
            kHeaderBytes + a.rows * a.row_bytes > sys::bytes_in_use(acks_block.file))
            corrupted(where, "sizes that do not fit the file");
        if (extents != 0) {
            Block extents_block = storage.open(place, Part::extents, writable);
            if (!extents_block) return Slab{};
            if (extents_block.bytes < extents) corrupted(where, "extents that do not fit their file");
            extents_block.bytes = extents;
            slab.extents_ = extents_block.map(writable, sys::Populate::no);
            slab.keep_extents(std::move(extents_block));
        }
        if (populate == sys::Populate::yes) sys::populate(slab.acks_.data(), kHeaderBytes + a.rows * a.row_bytes, true);
        slab.resolve(h, a);
        slab.keep(std::move(slab_block));
        return slab;
    }

    /// The pages of `bytes` bytes at `data`, copy-on-write: what nobody wrote to here still follows the slot.
    /// `view` is where they begin in the mapping.
    sys::Mapping private_pages(const std::byte* data, uint64_t bytes, std::byte*& view) const {
        const bool extent = beside(data);
        const auto at = static_cast<uint64_t>(data - (extent ? extents_ : bytes_).data());
        const uint64_t from = at / sys::page_size() * sys::page_size();
        sys::Mapping pages = sys::map_private(extent ? files_->extents : files_->slab,
                                              (extent ? extents_offset_ : file_offset_) + from, at - from + bytes);
        view = pages.data() + (at - from);
        return pages;
    }
    /// The pages of the file that have the byte at `data`: of all payloads, without the words; or of its message's extent.
    Stretch stretch_of(const std::byte* data) const {
        if (beside(data)) {
            const auto at = static_cast<uint64_t>(data - extents_.data());
            const uint64_t slot = at / extent_stride_, from = slot * extent_stride_;
            return {files_, &files_->extents, extents_offset_ + from, extent_pages(room_beside(slot)), at - from, false};
        }
        const auto from = static_cast<uint64_t>(payload - bytes_.data());
        return {files_, &files_->slab, file_offset_ + from, bytes_.size() - from, static_cast<uint64_t>(data - payload), true};
    }

    /// Pages for the row of a stage that was added later. Throws Errc::no_space.
    void back_row(const Storage& storage, uint32_t stage) const {
        const uint64_t at = kHeaderBytes + stage * row_bytes_;
        storage.reserve(place, Part::acks, at, row_bytes_);
        sys::populate(acks_.data() + at, row_bytes_, true);
    }

    /// Pages for a message of `bytes` bytes beside its slot. Throws Errc::no_space.
    void back_extent(const Storage& storage, uint64_t slot, uint64_t bytes) const {
        const uint64_t size = extent_pages(bytes);
        storage.reserve(place, Part::extents, slot * extent_stride_, size);
        sys::populate(extents_.data() + slot * extent_stride_, size, true);
    }
    /// Gives them back. They must have been let go, by taps too.
    void give_back_extent(uint64_t slot, uint64_t bytes) const noexcept {
        sys::give_back(files_->extents, extents_offset_ + slot * extent_stride_, extent_pages(bytes));
    }
    static uint64_t extent_pages(uint64_t bytes) noexcept { return round_up(bytes, std::max<uint64_t>(4096, sys::page_size())); }

    /// Gives back the pages of all payloads of a slab that was let go, by taps too. Its words stay for who still reads them.
    void give_back_payload() const noexcept {
        const auto at = static_cast<uint64_t>(payload - bytes_.data());
        sys::give_back(files_->slab, file_offset_ + at, bytes_.size() - at);
        if (extents_) sys::give_back(files_->extents, extents_offset_, extents_.size());
    }

    /// Bytes of it that have pages now.
    uint64_t resident() const noexcept { return sys::resident(bytes_) + sys::resident(acks_); }

    explicit operator bool() const noexcept { return header != nullptr; }

private:
    static constexpr uint64_t row_size(uint64_t capacity) noexcept { return round_up(capacity * 8, kHeaderBytes); }
    static constexpr uint64_t acks_size(uint64_t row) noexcept { return round_up(kHeaderBytes + kMaxStages * row, kSlabUnit); }

    std::shared_ptr<SlabFiles> files_;  // let go after the memory is not mapped
    uint64_t file_offset_ = 0, extents_offset_ = 0;
    sys::Mapping bytes_, acks_, extents_;
    uint64_t row_bytes_ = 0, extent_stride_ = 0, reserved_ = 0;

    struct Sizes {
        uint64_t slab = 0;
        SlabShape shape{};
    };
    static Sizes sizes_of(const SlabSpec& spec) {
        const uint64_t column = round_up(spec.capacity * 8, kLine);
        uint64_t payloads = 0, extents = 0;
        const uint64_t extent = spec.columns.extents ? extent_pages(spec.most) : 0;
        if (__builtin_mul_overflow(spec.capacity, spec.stride, &payloads) || payloads > 1ull << 56 ||
            __builtin_mul_overflow(spec.capacity, extent, &extents) || extents > 1ull << 46)
            fail(Errc::no_space, "no space for " + std::to_string(spec.capacity) + " slots of " +
                                     std::to_string(std::max(spec.stride, extent)) + " bytes; lower capacity=");
        uint64_t words = kHeaderBytes + column;  // the end of what lies before the payload
        const auto side = [&](bool wanted) { return wanted ? std::exchange(words, words + column) : 0; };
        const uint64_t dropped = side(spec.columns.dropped), variants = side(spec.columns.variants),
                       stamps = side(spec.columns.stamps), remote = side(spec.columns.remote),
                       extent_words = side(spec.columns.extents);
        const uint64_t payload = round_up(words, std::max<uint64_t>(4096, sys::page_size()));
        const uint64_t bytes = round_up(payload + payloads, kSlabUnit);
        return {bytes, {kSlabMagic, kLayoutVersion, kAbi, bytes, 0, 0, 0, spec.capacity, spec.stride, spec.room,
                        dropped, variants, stamps, remote, extent_words, extent, payload}};
    }

    /// Between the ready words and the payload, if there is such a column at all.
    static bool side_fits(const SlabShape& h, uint64_t at) noexcept {
        return at == 0 || (at >= kHeaderBytes + h.capacity * 8 && at % 8 == 0 && at <= h.payload_offset - h.capacity * 8);
    }

    /// Does this byte lie in an extent?
    bool beside(const std::byte* data) const noexcept {
        return extents_ && data >= extents_.data() && data < extents_.data() + extents_.size();
    }
    void keep(Block&& block) {
        if (!files_) files_ = std::make_shared<SlabFiles>();
        file_offset_ = block.offset;
        files_->slab = std::move(block.file);
    }
    void keep_extents(Block&& block) {
        if (!files_) files_ = std::make_shared<SlabFiles>();
        extents_offset_ = block.offset;
        files_->extents = std::move(block.file);
    }

    void resolve(const SlabShape& h, const AcksShape& a) noexcept {
        header = reinterpret_cast<SlabHeader*>(bytes_.data());
        ready = reinterpret_cast<Atomic64*>(bytes_.data() + kHeaderBytes);
        const auto side = [&](uint64_t at) { return at ? reinterpret_cast<Atomic64*>(bytes_.data() + at) : nullptr; };
        dropped = side(h.dropped_offset);
        variants = side(h.variant_offset);
        stamps = side(h.stamp_offset);
        remote = side(h.remote_offset);
        extents = side(h.extent_offset);
        extent_stride_ = h.extent_stride;
        payload = bytes_.data() + h.payload_offset;
        capacity = h.capacity;
        stride = h.stride;
        room = h.room;
        first = h.first;
        reserved_ = h.file_bytes + kHeaderBytes + a.rows * a.row_bytes;
        stages = a.rows;
        row_bytes_ = a.row_bytes;
    }

    [[noreturn]] static void there_already(const Storage& storage) {
        fail(Errc::incompatible, "a slab of " + storage.address + " is there already; remove the files of this channel");
    }
    [[noreturn]] static void corrupted(const std::string& where, const char* why) {
        fail(Errc::incompatible, "the slab in " + where + " has " + why +
                                     "; its sender runs another version of psyne, or the file was damaged");
    }
};

}  // namespace psyne
