// A local channel goes out to one that looks on. It holds nobody, so messages are copied before they are written, and sent
// once: what was under way in a connection that broke is missed, and those that come next take its numbers.
#pragma once

#include <psyne/net/line.hpp>
#include <psyne/net/source_link.hpp>
#include <psyne/tap.hpp>

namespace psyne::net {

class TapLink final : public SourceLink {
public:
    TapLink(Tap& tap, std::vector<MessageShape> shapes, bool checksum = false)
        : SourceLink(std::move(shapes), checksum), tap_(tap), room_(std::max(shapes_.most(), kCopied) + 8 * kMostMessages),
          copy_(std::make_unique_for_overwrite<std::byte[]>(room_)) {}

    void connected(uint64_t next, uint64_t capacity) override {
        const uint64_t sent = sent_;
        SourceLink::connected(next, capacity);
        missed_ += sent - next;
        forget_told();
        for (; !told_.empty(); ++told_.first) missed_ += told_.front().missed;
    }

private:
    static constexpr uint64_t kCopied = 256 * 1024;  // bytes that are copied at once

    Tap& tap_;
    uint64_t room_;
    std::unique_ptr<std::byte[]> copy_;  // stamps and payload of the frame in the outbox
    uint64_t missed_ = 0;  // before the message that comes next
    struct Missed {
        uint64_t sequence, missed;
    };
    Line<Missed> told_;  // in frames that the far end perhaps has not got

    void forget_told() noexcept {
        while (!told_.empty() && told_.front().sequence < received()) ++told_.first;
    }
    void ended(uint64_t) override {}
    bool over(bool& lost) override {
        if (!tap_.ended() || (tap_.follow && !tap_.closed())) return false;
        lost = tap_.sender_lost();
        return true;
    }

    /// One frame at a time: the copy is free again when all is written.
    void fill(uint64_t) override {
        if (!outbox_.empty() || finishes()) return;
        const uint64_t most = credit(sent_);
        Sight s;
        for (int tries = 0; most != 0 && tries < 16; ++tries)
            if (!tap_.find(most, s) || look(s)) return;
    }

    /// Copies what was found into a frame; false when there is none: it was overwritten, or contradicts itself.
    bool look(Sight& s) {
        const Slab& slab = s.slab();
        const MessageShape* shape = shapes_.find(s.side(slab.variants));
        const uint64_t room = s.room();
        uint64_t size = shape ? shape->bytes : 0, stamps = 0;
        if (shape) s.count = std::min({s.count, most_messages(*shape), std::max<uint64_t>(kCopied / std::max<uint64_t>(size, 1), 1)});
        bool good = shape != nullptr;
        const bool whole = tap_.read(s, [&] {
            if (!good) return;
            if (const Atomic64* clock = clock_of(slab)) copy(stamps, clock + s.slot, 8 * s.count);
            good = copy_payload(*shape, s, room, stamps, size);
        });
        if (!whole) return false;
        missed_ += s.missed;
        if (!good) {
            corrupted_ += s.count, missed_ += s.count;
            return false;
        }
        std::byte* const begin = head(*shape, s.count, size, missed_, stamps != 0);
        forget_told();
        if (missed_ != 0) told_.push({sent_, std::exchange(missed_, 0)});
        piece(copy_.get(), stamps + s.count * size);
        close_frame(begin, s.count);
        return true;
    }

    void copy(uint64_t& at, const void* from, uint64_t n) noexcept {
        copy_shared(copy_.get() + at, static_cast<const std::byte*>(from), n);
        at += n;
    }
    /// As it travels. What is written over meanwhile may say anything: no byte is touched that is not the message's.
    bool copy_payload(const MessageShape& shape, const Sight& s, uint64_t room, uint64_t at, uint64_t& size) noexcept {
        if (room < (shape.shaped ? shape.dims_bytes() : size)) return false;
        if (shape.shaped) {
            uint64_t dims[MessageShape::kMostDims], elements = 0;
            copy(at, shape.dims_at(s.data(), room), shape.dims_bytes());
            std::memcpy(dims, copy_.get() + at - shape.dims_bytes(), shape.dims_bytes());
            if (!shape.elements(dims, room, elements)) return false;
            copy(at, s.data(), elements);
            size = shape.dims_bytes() + elements;
        } else if (!shape.columns.empty()) {
            for (size_t f = 0; f < shape.columns.size(); ++f) copy(at, shape.column(s.slab(), f, s.slot), s.count * shape.columns[f].bytes);
        } else if (size == s.stride()) {
            copy(at, s.data(), s.count * size);
        } else {
            for (uint64_t i = 0; i < s.count; ++i) copy(at, s.data() + i * s.stride(), size);
        }
        return true;
    }
};

}  // namespace psyne::net
