// A local channel goes out: a member of a stage whose messages a far ring gets. It keeps each until the far end has let it
// go, so the local ring is what can be sent again.
//
//   runs_   │ run 7 │ run 8 │ run 9 │         consecutive messages, as they were taken
//            let_go_     ▲ at_, sent_    next_
#pragma once

#include <psyne/net/line.hpp>
#include <psyne/net/source_link.hpp>
#include <psyne/receiver.hpp>

namespace psyne::net {

class OutLink final : public SourceLink {
public:
    OutLink(Receiver& receiver, std::vector<MessageShape> shapes, bool checksum = false)
        : SourceLink(std::move(shapes), checksum), receiver_(receiver) {}

    /// Goes on with `next`: sends again what is behind it.
    void connected(uint64_t next, uint64_t capacity) override {
        SourceLink::connected(next, capacity);
        for (at_ = runs_.first; at_ != runs_.last && runs_[at_].end() <= next;) ++at_;
    }

    void restart() noexcept override {
        ended(acked_);
        for (uint64_t i = runs_.first; i != runs_.last; ++i) runs_[i].first -= acked_;
        next_ -= acked_;
        SourceLink::restart();
    }
    /// The far end will not have what it has not let go: other members of the stage get it.
    void give_back() noexcept {
        for (; !runs_.empty(); ++runs_.first) receiver_.give_back(runs_.front().taken);
        let_go_ = acked_ = received_ = sent_ = flown_ = next_;
        at_ = runs_.first;
        outbox_.clear();
    }

private:
    struct Run {
        Taken taken;
        const MessageShape* shape = nullptr;
        uint64_t first = 0;   // sequence
        uint64_t size = 0;    // bytes on the wire, of each
        uint64_t room = 0;    // bytes, of each
        uint64_t missed = 0;  // just before, because they were corrupted
        uint64_t end() const noexcept { return first + taken.count; }
    };

    uint64_t sent_most() const noexcept override { return next_; }

    Receiver& receiver_;
    Line<Run> runs_;
    uint64_t at_ = 0;     // the run that has message sent_
    uint64_t next_ = 0;   // the sequence of the message that is taken next
    uint64_t missed_ = 0;  // corrupted ones since the last that was good

    static Taken part(const Taken& t, uint64_t from, uint64_t count) noexcept {
        Taken p = t;
        p.slot += from, p.count = count, p.data += from * t.lane->slab.stride;
        return p;
    }

    void ended(uint64_t until) override {
        while (!runs_.empty() && runs_.front().first < until) {
            Run& run = runs_.front();
            const uint64_t n = std::min(until, run.end()) - run.first;
            const Taken gone = part(run.taken, 0, n);
            if (n == run.taken.count) ++runs_.first;
            else run.taken = part(run.taken, n, run.taken.count - n), run.first += n, run.missed = 0;
            receiver_.end(gone, false);  // last: the lane may be gone after it
        }
    }

    bool over(bool& lost) override {
        if (sent_ != next_ || !receiver_.ended_now() || (receiver_.follow && !receiver_.closed())) return false;
        lost = receiver_.sender_lost();
        return true;
    }

    void fill(uint64_t bytes) override {
        while (outbox_.bytes() < bytes) {
            for (int tries = 0; at_ == runs_.last; ++tries) {  // some may be good for nothing
                const uint64_t most = credit(next_);
                Taken t;
                if (most == 0 || tries == 16 || finishes() || !receiver_.try_take(most, t)) return;
                keep(t);
            }
            if (!frame(runs_[at_])) return;
            if (sent_ == runs_[at_].end()) ++at_;
        }
    }

    /// What was taken gets its sequence. Who wrote what contradicts itself is damaged or hostile: that is passed over.
    void keep(const Taken& t) {
        const MessageShape* shape = shapes_.find(t.variant());
        const uint64_t room = t.room(), step = shape && shape->shaped ? 1 : t.count;
        for (uint64_t i = 0; i < t.count; i += step) {
            const Taken some = part(t, i, step);
            uint64_t size = shape ? shape->bytes : 0;
            if (!shape || (shape->shaped ? !used(*shape, some, room, size) : size > room)) {
                corrupted_ += step, missed_ += step;
                receiver_.end(some, false);
                continue;
            }
            runs_.push({some, shape, next_, size, room, std::exchange(missed_, 0)});
            next_ += step;
        }
    }
    /// Bytes on the wire of a shaped message.
    static bool used(const MessageShape& shape, const Taken& t, uint64_t room, uint64_t& size) noexcept {
        uint64_t dims[MessageShape::kMostDims];
        if (room < shape.dims_bytes()) return false;
        std::memcpy(dims, shape.dims_at(t.data, room), shape.dims_bytes());
        if (!shape.elements(dims, room, size)) return false;
        size += shape.dims_bytes();
        return true;
    }

    /// Of the messages of a run from `sent_` on, as many as one frame has. False: the outbox has no room.
    bool frame(const Run& run) {
        const Slab& slab = run.taken.lane->slab;
        const MessageShape& shape = *run.shape;
        const Atomic64* const clock = clock_of(slab);
        const uint64_t from = sent_ - run.first, slot = run.taken.slot + from, fields = shape.columns.size();
        const bool joined = fields == 0 && run.size == slab.stride;
        uint64_t n = std::min(run.taken.count - from, most_messages(shape));
        if (slab.dropped)  // what was lost is known of the first alone
            for (uint64_t i = 1; i < n; ++i)
                if (slab.dropped[slot + i].load(relaxed) != 0) n = i;
        if (fields == 0 && !joined) n = std::min<uint64_t>(n, Outbox::kPieces / 4);
        if (!outbox_.fits(3 + (fields != 0 ? fields : joined ? 1 : n), kHeader + kDataHead + shape.dims_bytes())) return false;

        const uint64_t missed = (from == 0 ? run.missed : 0) + (slab.dropped ? slab.dropped[slot].load(relaxed) : 0);
        std::byte* const begin = head(shape, n, run.size, missed, clock != nullptr);
        if (clock) piece(reinterpret_cast<const std::byte*>(clock + slot), 8 * n);
        std::byte* const data = run.taken.data + from * slab.stride;
        if (shape.shaped) {
            std::byte* dims = outbox_.head(shape.dims_bytes());
            std::memcpy(dims, shape.dims_at(run.taken.data, run.room), shape.dims_bytes());
            if (checksum_) add_to_sum(dims, shape.dims_bytes());
            piece(data, run.size - shape.dims_bytes());
        } else if (fields != 0) {
            for (size_t f = 0; f < fields; ++f) piece(shape.column(slab, f, slot), n * shape.columns[f].bytes);
        } else if (joined) {
            piece(data, n * run.size);
        } else {
            for (uint64_t i = 0; i < n; ++i) piece(data + i * slab.stride, run.size);
        }
        close_frame(begin, n);
        return true;
    }
};

}  // namespace psyne::net
