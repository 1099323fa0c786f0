#include "payload.hpp"
#include "sleepers.hpp"

using namespace psyne;
using namespace psyne::test;

namespace psyne::test::tap_follow {
namespace {

using test::goodbye;

const ChannelSpec kOpen = spec(Pattern::mpsc, {}), kKept = spec();  // holds nobody; kept for a stage without members

/// A lane of several slabs that is written by hand, by the rules for senders. Its messages carry numbers.
class Chain {
public:
    std::unique_ptr<Sender> tx;  // has the lane and slab 0, and sends nothing itself
    uint64_t next = 0;           // position

    explicit Chain(const Home& home, const ChannelSpec& s = kOpen, uint64_t capacity = 8)
        : tx(sender(home, s, {.capacity = capacity})) {
        slabs_.push_back(&tx->slab());
    }

    const Slab& slab(uint64_t number) const { return *slabs_[number]; }
    const Slab& newest() const { return *slabs_.back(); }
    uint64_t slabs() const { return slabs_.size(); }
    LaneRecord& record() const { return tx->registry.file.lane(tx->registry.id - kMaxReceivers); }
    const Storage& storage() const { return tx->registry.file.storage(); }
    bool there(uint64_t number) const { return cell(number).load() == cell_word(slab(number).place.join, number); }

    /// The slab that is written from now on.
    void link(uint64_t capacity, SlabSpec s = {64, 64, 0, 0, {}}) {
        s.capacity = capacity, s.stages = tx->registry.file.shape.stage_count;
        uint64_t free = 0;
        while (record().slabs[free].slab.load() != 0) ++free;
        SlabPlace place{tx->registry.id - kMaxReceivers, tx->registry.join(), free, slabs()};
        made_.push_back(std::make_unique<Slab>(Slab::create(storage(), place, s)));
        made_.back()->begin_at(next);
        record().slabs[free].bytes.store(made_.back()->reserved());
        record().slabs[free].slab.store(cell_word(place.join, place.number));
        newest().header->close.store(next + 1);
        slabs_.push_back(made_.back().get());
    }

    bool may_lend() const {
        const Slab& s = newest();
        return next < s.first + s.capacity || state_[next - s.capacity] != State::open;
    }
    uint64_t lend() {
        const Slab& s = newest();
        uint64_t skips = 0;
        for (uint64_t p = s.first; p + s.capacity <= next; ++p) skips += state_[p] == State::skip;
        if (skips != 0) s.header->skips.store(skips_word(next + 1, skips));
        s.header->claim.store(next + 1);
        full_fence();
        state_.push_back(State::open);
        owner_.push_back(slabs() - 1);
        return next++;
    }
    void publish(uint64_t position, uint64_t value) {
        std::memcpy(of(position).at(at(position).slot), &value, 8);
        ready(position, Ready::ready);
        state_[position] = State::message;
    }
    void skip(uint64_t position) {
        ready(position, Ready::skip);
        state_[position] = State::skip;
    }
    uint64_t put(uint64_t value) {
        const uint64_t position = lend();
        publish(position, value);
        return position;
    }
    Cursor at(uint64_t position) const { return Cursor::at(position, of(position).first, of(position).capacity); }
    const Slab& of(uint64_t position) const { return slab(owner_[position]); }
    void ready(uint64_t position, Ready r) const { of(position).ready[at(position).slot].store(word(at(position).lap, r)); }

    /// Says how many SKIPs are before each slab up to this one; false while some position before it is open.
    bool settle(uint64_t number) {
        for (; settled_ < number; ++settled_) {
            uint64_t skips = slab(settled_).header->skips_before.load();
            for (uint64_t p = slab(settled_).first; p < slab(settled_ + 1).first; ++p) {
                if (state_[p] == State::open) return false;
                skips += state_[p] == State::skip;
            }
            slab(settled_ + 1).header->skips_before.store(skips);
        }
        return true;
    }
    bool may_retire(uint64_t number) { return number + 1 < slabs() && there(number) && settle(number + 1); }
    /// False while a tap copies from it.
    bool retire(uint64_t number) const {
        return psyne::retire(tx->registry.file, slab(number), true);
    }
    /// It is retired: unmaps it, where it is ours.
    void forget(uint64_t number) {
        if (number != 0) made_[number - 1].reset();
    }

private:
    enum class State : uint8_t { open, skip, message };
    std::vector<std::unique_ptr<Slab>> made_;
    std::vector<const Slab*> slabs_;
    std::vector<State> state_;     // of each position,
    std::vector<uint64_t> owner_;  // and its slab
    uint64_t settled_ = 0;         // the last slab that knows how many SKIPs are before it
    Atomic64& cell(uint64_t number) const { return record().slabs[slab(number).place.cell].slab; }
};

std::unique_ptr<Tap> tap(const Home& home, const TapOptions& o = {}) {
    TapOptions options = o;
    options.wait = Mode::block;
    return open_tap(home.directory, "test", options, "test");
}
struct Read {
    uint64_t value, missed, count;
};
std::optional<Read> try_read(Tap& t, uint64_t limit = 1) {
    for (Sight s; t.find(limit, s);) {
        std::vector<std::byte> copy((s.count - 1) * s.stride() + s.room());
        if (!t.read(s, [&] { copy_shared(copy.data(), s.data(), copy.size()); })) continue;
        Read r{0, s.missed, s.count};
        std::memcpy(&r.value, copy.data(), 8);
        return r;
    }
    return std::nullopt;
}
Read read(Tap& t, uint64_t limit = 1) {
    const auto r = try_read(t, limit);
    if (!r) check::fail("no message is there");
    return *r;
}
void check_read(Tap& t, uint64_t value, uint64_t missed = 0) {
    const Read r = read(t);
    CHECK_EQ(r.value, value);
    CHECK_EQ(r.missed, missed);
}
void goodbye(std::unique_ptr<Tap>& t) {
    t->close();
    leave(t->registry);
    t.reset();
}

constexpr SlabSpec kExtended{64, 64, 0, 0, {.extents = true}, 1 << 20};
/// A message beside its slot. Returns its slot.
uint64_t put_extent(Chain& c, uint64_t bytes, uint64_t value) {
    const uint64_t position = c.lend(), slot = c.at(position).slot;
    const Slab& slab = c.newest();
    slab.back_extent(c.storage(), slot, bytes);
    slab.extents[slot].store(bytes);
    std::memcpy(slab.extent_at(slot), &value, 8);
    std::memcpy(slab.extent_at(slot) + bytes - 8, &value, 8);
    c.ready(position, Ready::ready);
    return slot;
}

}  // namespace

TESTS(tap_follow_test) {
    return check::run({
        {"a tap goes on from slab to slab",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home);
             uint64_t n = 0, next = 0;
             for (const uint64_t capacity : {3, 16, 1, 4}) {
                 for (uint64_t i = 0; i < 5; ++i) c.put(n++), check_read(*t, next++);
                 c.put(n++);
                 c.link(capacity);
                 c.put(n++);
                 check_read(*t, next++), check_read(*t, next++);
                 CHECK(!try_read(*t));
             }
             c.link(8), c.link(8);  // nothing was sent in one of them
             c.put(n);
             check_read(*t, next);
             CHECK_EQ(t->registry.me().tap_at.load(), 0u);
         }},
        {"messages lent before a slab was closed come before those of the next",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home);
             const uint64_t open = c.lend();
             c.link(8);
             c.put(1);
             CHECK(!try_read(*t));
             c.publish(open, 0);
             check_read(*t, 0), check_read(*t, 1);
         }},
        {"a tap in a slab that is retired goes on in the oldest that is there, and knows what it missed",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home);
             uint64_t n = 0;
             c.put(n++);
             check_read(*t, 0);
             for (uint64_t k = 0; k < 4; ++k) {
                 c.skip(c.lend());
                 for (uint64_t i = 0; i < 13; ++i) c.put(n++);
                 c.link(4 + k);
             }
             c.put(n++);
             for (uint64_t k = 0; k < 4; ++k) CHECK(c.may_retire(k) && c.retire(k));
             check_read(*t, n - 1, n - 2);
         }},
        {"slabs between that are gone are counted, also by who stands at the end of its own",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home);
             c.skip(c.lend()), c.put(0);
             check_read(*t, 0);
             c.link(4), c.put(1), c.skip(c.lend());
             c.link(4), c.put(2), c.put(3), c.skip(c.lend());
             c.link(4), c.skip(c.lend()), c.put(4);
             CHECK(c.may_retire(2) && c.retire(2) && c.may_retire(1) && c.retire(1));
             check_read(*t, 4, 3);
         }},
        {"a slab whose files are gone and whose cell is still there is passed over",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home);
             c.put(0), check_read(*t, 0);
             c.link(4), c.put(1);
             c.link(4), c.put(2);
             CHECK(c.may_retire(1));
             c.storage().remove(c.slab(1).place);  // killed before its cell was freed
             check_read(*t, 2, 1);
         }},
        {"where the number of SKIPs is not known yet a tap does not jump",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home);
             c.put(0), check_read(*t, 0);
             c.link(4), c.put(1);
             c.link(4), c.put(2);
             CHECK(c.retire(1));  // too early
             CHECK(!try_read(*t));
             c.tx->close(false);
             CHECK(!t->ended());
             CHECK(c.settle(2));
             check_read(*t, 2, 1);
         }},
        {"a copy from a slab that is retired meanwhile does not count, and its pages wait for the tap",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home);
             c.put(0);
             c.link(4), c.put(1);
             Sight s;
             CHECK(t->find(1, s));
             CHECK(c.may_retire(0));
             CHECK(!t->read(s, [&] { CHECK(!c.retire(0)); }));
             s.lane->catch_up();  // as if it had looked just before
             CHECK_EQ(s.lane->missed, 0u);
             CHECK(c.retire(0));
             check_read(*t, 1, 1);
         }},
        {"a tap that comes late begins behind what was sent, with open loans of closed slabs before it",
         [] {
             Home home;
             Chain c(home);
             uint64_t n = 0;
             for (uint64_t k = 0; k < 3; ++k) {
                 for (uint64_t i = 0; i < 20; ++i) c.put(n++);
                 c.link(8);
             }
             auto t = tap(home), from_start = tap(home, {.from_start = true});
             CHECK(!try_read(*t));
             const Read first = read(*from_start);
             CHECK_EQ(first.value, first.missed);
             const uint64_t open = c.lend();
             c.link(8);
             auto young = tap(home);
             c.put(n + 1), c.publish(open, n);
             check_read(*t, n), check_read(*t, n + 1);
             check_read(*young, n), check_read(*young, n + 1);
         }},
        {"a lane that lost its first slabs before a tap saw it has missed messages from the first one on",
         [] {
             Home home;
             auto first = sender(home, kOpen);
             auto t = tap(home);
             Chain c(home);
             c.put(0), c.skip(c.lend()), c.put(1);
             c.link(4), c.put(2);
             CHECK(c.may_retire(0) && c.retire(0));
             check_read(*t, 2, 2);
         }},
        {"a history lies in several slabs, and one that is retired meanwhile is missed",
         [] {
             Home home;
             Chain c(home);
             uint64_t n = 0;
             for (uint64_t k = 0; k < 4; ++k) {
                 for (uint64_t i = 0; i < 3; ++i) c.put(n++), c.skip(c.lend());
                 c.link(8);
             }
             auto t = tap(home, {.history = 5}), all = tap(home, {.history = 100}), late = tap(home, {.history = 8});
             for (uint64_t i = n - 5; i < n; ++i) check_read(*t, i);
             for (uint64_t i = 0; i < n; ++i) check_read(*all, i);
             check_read(*late, n - 8);
             for (uint64_t k = 0; k < 3; ++k) CHECK(c.may_retire(k) && c.retire(k));
             check_read(*late, n - 3, 4);
             c.put(n);
             check_read(*t, n), check_read(*all, n);
             auto last = tap(home, {.history = 1});
             check_read(*last, n);
         }},
        {"the newest message is found in any slab, also when the next is still empty",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home, {.latest = true});
             for (uint64_t i = 0; i < 4; ++i) c.put(i);
             c.link(8);
             for (uint64_t i = 4; i < 7; ++i) c.put(i);
             c.link(8);
             CHECK_EQ(t->there(1), 1u);
             check_read(*t, 6, 6);
             CHECK(!try_read(*t));
             c.put(7), c.put(8);
             check_read(*t, 8, 1);
         }},
        {"batches end where a slab ends",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home);
             for (uint64_t i = 0; i < 3; ++i) c.put(i);
             Sight s;
             CHECK(t->find(8, s));
             CHECK(s.count == 3 && !s.ends);
             c.link(8), c.put(3);
             CHECK(t->find(8, s));
             CHECK(s.count == 3 && s.ends);
             CHECK_EQ(read(*t, 8).count, 3u);
             CHECK_EQ(read(*t, 8).count, 1u);
         }},
        {"a lane that has ended is over behind its last slab",
         [] {
             Home home;
             Chain c(home, kKept);
             auto t = tap(home);
             c.put(0);
             c.link(8), c.put(1);
             c.tx->close(false);
             CHECK(!t->ended());
             check_read(*t, 0);
             CHECK(!t->ended());
             check_read(*t, 1);
             CHECK(!try_read(*t) && t->ended() && !t->sender_lost());
         }},
        {"a lane whose slabs were removed is over behind the one that a tap has",
         [] {
             Home home;
             auto other = sender(home, kOpen);
             auto t = tap(home);
             Chain c(home);
             c.put(0);
             t->look_after_others();
             c.link(8), c.put(1);
             c.tx->close(false);
             c.storage().remove_lane(c.tx->registry.join());
             c.record().state.store(stated(c.tx->registry.join(), LaneState::free));
             check_read(*t, 0);
             CHECK(!try_read(*t));
             t->look_after_others();
             CHECK_EQ(t->lanes(), 1u);
             CHECK(!t->ended());
             goodbye(other);
             CHECK(t->ended());
         }},
        {"a lane whose slabs are retired or gone is over for who stands in a retired one",
         [] {
             Home home;
             auto other = sender(home, kOpen);
             auto t = tap(home);
             {
                 Chain c(home);
                 c.put(0);
                 t->look_after_others();
                 c.link(8), c.put(1);
                 CHECK(c.may_retire(0) && c.retire(0));
                 goodbye(c.tx);
             }
             CHECK(!try_read(*t));
             t->look_after_others();
             CHECK_EQ(t->lanes(), 1u);
             goodbye(other);
             CHECK(t->ended());
         }},
        {"holes that a dead sender left in closed slabs count nothing, and the way goes on behind them",
         [] {
             Home home;
             auto other = sender(home, kKept);
             auto t = tap(home);
             {
                 Child child([&](Child&) {
                     auto* c = new Chain(home, kKept);
                     c->put(0);
                     c->lend(), c->put(1), c->lend(), c->lend();
                     c->link(4);
                     c->link(4), c->lend();
                     c->link(4), c->lend(), c->put(2), c->lend();
                 });
                 child.wait_here();
             }
             check_read(*t, 0);
             CHECK(!try_read(*t));
             t->look_after_others();
             check_read(*t, 1), check_read(*t, 2);
             CHECK(!try_read(*t));
             goodbye(other);
             CHECK(t->ended() && t->sender_lost());
         }},
        {"holes that were passed count like SKIPs where slabs behind them are gone",
         [] {
             Home home;
             auto other = sender(home, kKept);
             auto t = tap(home);
             {
                 Child child([&](Child&) {
                     auto* c = new Chain(home, kKept);
                     c->put(0), c->lend(), c->put(1);
                     c->link(4), c->put(2);
                     c->link(4), c->put(3);
                 });
                 child.wait_here();
             }
             check_read(*t, 0);
             t->look_after_others();
             check_read(*t, 1);
             const ChannelFile& file = other->registry.file;
             std::vector<Slab> slabs;
             for (const SlabPlace& place : slabs_of(file.lane(1), 1, count_in(file.lane(1).state.load())))
                 slabs.push_back(Slab::attach(file.storage(), place, 64, true, sys::Populate::no));
             CHECK_EQ(slabs.size(), 3u);
             settle_skips({&slabs[0], &slabs[1], &slabs[2]}, true);
             CHECK(psyne::retire(file, slabs[1], true));
             check_read(*t, 3, 1);
         }},
        {"a slab that a dead sender made and did not close the one before for is not gone to",
         [] {
             Home home;
             auto other = sender(home, kKept);
             auto t = tap(home);
             {
                 Child child([&](Child&) {
                     auto* c = new Chain(home, kKept);
                     c->put(0);
                     c->link(4);
                     c->slab(0).header->close.store(0);
                 });
                 child.wait_here();
             }
             t->look_after_others();
             check_read(*t, 0);
             goodbye(other);
             CHECK(!try_read(*t) && t->ended());
         }},
        {"a tap that sleeps at the end of a slab is woken by the first message of the next",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home);
             auto thread = in_thread([&t] {
                 CHECK_EQ(t->wait(kForever, keep_going), Wait::ready);
                 check_read(*t, 5);
             });
             until_asleep(c.tx->registry.file.header().taps_idle, 1ull << t->registry.id);
             c.link(8), c.put(5);
             c.tx->registry.wake_taps();
             thread.join();
             CHECK_EQ(late_wakes(t->registry), 0u);
         }},
        {"statistics count what waits in all slabs",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home);
             for (uint64_t i = 0; i < 4; ++i) c.put(i);
             c.link(16), c.put(4), c.put(5);
             check_read(*t, 0);
             CHECK_EQ(t->seen().waiting, 5u);
             CHECK_EQ(t->seen().capacity, 16u);
             CHECK(c.may_retire(0) && c.retire(0));
             CHECK_EQ(t->seen().waiting, 2u);
         }},
        {"a message in an extent is read from there, and by itself",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home);
             c.link(8, kExtended);
             c.put(0), c.put(1);
             const uint64_t slot = put_extent(c, 10'000, 2);
             c.put(3);
             Sight s;
             CHECK_EQ(read(*t, 8).count, 2u);
             CHECK(t->find(8, s));
             CHECK(s.count == 1 && s.ends);
             CHECK(s.room() == 10'000 && s.data() == s.slab().extent_at(slot));
             uint64_t first = 0, last = 0;
             CHECK(t->read(s, [&] {
                 std::memcpy(&first, s.data(), 8);
                 std::memcpy(&last, s.data() + s.room() - 8, 8);
             }));
             CHECK(first == 2 && last == 2);
             CHECK_EQ(t->find(8, s) ? s.room() : 0, 64u);
             check_read(*t, 3);
             c.newest().extents[put_extent(c, 64, 4)].store(1ull << 50);  // not believed
             CHECK(t->find(8, s) && s.ends);
             CHECK_EQ(s.room(), 1ull << 20);
         }},
        {"an extent that was given back is a message missed, also in the middle of a copy",
         [] {
             Home home;
             Chain c(home);
             auto t = tap(home);
             c.link(8, kExtended);
             const auto give_back = [&](uint64_t slot) { c.newest().extents[slot].fetch_or(kGone); };
             give_back(put_extent(c, 5000, 0));
             const uint64_t during = put_extent(c, 5000, 1);
             const uint64_t before = put_extent(c, 5000, 2);
             c.put(3);
             Sight s;
             CHECK(t->find(1, s));
             CHECK(!t->read(s, [&] { give_back(during); }));
             CHECK_EQ(s.lane->slips, 0u);
             CHECK(t->find(1, s));
             give_back(before);
             CHECK(!t->read(s, [&] { check::fail("it is gone"); }));
             check_read(*t, 3, 3);
             const uint64_t slot = put_extent(c, 5000, 4);  // another message takes its place
             CHECK(t->find(1, s));
             CHECK(!t->read(s, [&] { c.newest().extents[slot].store(6000); }));
         }},
        {"what taps saw and what they missed is what was sent, whatever becomes of slabs",
         [] {
             for (unsigned seed = 1; seed <= 30; ++seed) {
                 Home home;
                 Random random(seed);
                 Chain c(home, kOpen, 1 + pick(random, 8));
                 auto t = tap(home), newest = tap(home, {.latest = true}), young = tap(home);
                 std::vector<std::pair<uint64_t, uint64_t>> open;  // position, value; ~0: will be a SKIP
                 uint64_t number = 0, next = 0, newest_next = 0, young_next = 0;
                 const auto read_all = [&](Tap& from, uint64_t& expected) {
                     while (const auto r = try_read(from)) {
                         CHECK_EQ(r->value, expected + r->missed);
                         expected = r->value + 1;
                     }
                 };
                 const auto close_loan = [&](size_t i) {
                     const auto [position, value] = open[i];
                     value == ~0ull ? c.skip(position) : c.publish(position, value);
                     open.erase(open.begin() + static_cast<std::ptrdiff_t>(i));
                 };
                 for (uint64_t round = 0; round < 3'000; ++round) {
                     const uint64_t what = pick(random, 100);
                     if (what < 50 && c.may_lend()) {
                         const uint64_t position = c.lend();
                         open.emplace_back(position, pick(random, 4) == 0 ? ~0ull : number++);
                     } else if (what < 90 && !open.empty()) {
                         close_loan(pick(random, 3) != 0 ? 0 : pick(random, open.size()));
                     } else if (what < 93) {
                         uint64_t there = 0;
                         for (uint64_t k = 0; k < c.slabs(); ++k) there += c.there(k);
                         if (there < kMaxSlabs) c.link(1 + pick(random, 12));
                     } else if (what < 97) {
                         const uint64_t k = c.slabs() - 1 - pick(random, std::min<uint64_t>(c.slabs(), 8));
                         if (c.may_retire(k)) CHECK(c.retire(k));
                     }
                     if (pick(random, 1 + round / 100) == 0) read_all(*t, next);
                     if (pick(random, 40) == 0) read_all(*newest, newest_next);
                     if (pick(random, 60) == 0) read_all(*young, young_next);
                     if (pick(random, 50) == 0) {  // comes again, with a history
                         while (!open.empty()) close_loan(0);
                         goodbye(young);
                         young = tap(home, {.history = 1 + pick(random, 10)});
                         const auto r = try_read(*young);
                         if (r) CHECK_EQ(r->missed, 0u);
                         young_next = r ? r->value + 1 : number;
                     }
                 }
                 while (!open.empty()) close_loan(0);
                 c.put(number++);
                 c.tx->close(false);
                 for (auto [tap, n] : {std::pair{t.get(), &next}, {newest.get(), &newest_next}, {young.get(), &young_next}}) {
                     read_all(*tap, *n);
                     CHECK_EQ(*n, number);
                     CHECK(tap->ended());
                 }
             }
         }},
        {"a copy is whole while slabs come and go at full speed, and the count is exact",
         [] {
             for (const bool latest : {false, true}) {
                 Home home;
                 constexpr uint64_t kWords = 512;
                 Chain c(home, spec(Pattern::mpsc, {}, kWords * 8), 4);
                 auto t = tap(home, {.latest = latest});
                 const uint64_t slabs = kSanitized ? 150 : 1'000;
                 uint64_t sent = 0;
                 std::thread thread = in_thread([&] {
                     uint64_t retired = 0;
                     for (uint64_t k = 0; k < slabs; ++k) {
                         for (uint64_t i = 0; i < 20; ++i) {
                             const uint64_t position = c.lend();
                             if (i % 7 == 3) {
                                 c.skip(position);
                             } else {
                                 fill(c.of(position).at(c.at(position).slot), kWords, 1, sent++);
                                 c.ready(position, Ready::ready);
                                 c.publish(position, 1);  // its first word again
                             }
                         }
                         c.tx->registry.wake_taps();
                         c.link(2 + k % 5, {kWords * 8, kWords * 8, 0, 0, {}});
                         CHECK(c.settle(k + 1));
                         while (k - retired > k % 3) {
                             if (c.retire(retired)) c.forget(retired++);
                             else if (k - retired < kMaxSlabs / 2) break;
                             else ::sched_yield();  // the tap was stopped in the middle of a copy
                         }
                     }
                     const uint64_t position = c.lend();
                     fill(c.of(position).at(c.at(position).slot), kWords, 1, sent++);
                     c.ready(position, Ready::ready);
                     c.tx->close(false);
                 });
                 std::vector<std::byte> copy(kWords * 8);
                 uint64_t seen = 0, next = 0;
                 while (t->wait(kForever, keep_going) == Wait::ready) {
                     Sight s;
                     if (!t->find(1, s) || !t->read(s, [&] { copy_shared(copy.data(), s.data(), copy.size()); })) continue;
                     verify(copy.data(), kWords, 0);
                     const auto* w = reinterpret_cast<const uint64_t*>(copy.data());
                     CHECK_EQ(w[1], next + s.missed);
                     next = w[1] + 1;
                     ++seen;
                 }
                 thread.join();
                 CHECK(next == sent && seen > 2);
             }
         }},
        {"a ring that grows and shrinks by itself is followed, messages in extents too",
         [] {
             constexpr uint64_t kMost = 64 * 1024;
             Home home;
             auto tx = open_sender(home.directory, "test", spec(Pattern::mpsc, {{"main"}}, kMost),
                                   {64, 4, {.extents = true}, Mode::block, {64 << 20, 1'000'000}, 64, 8}, "test");
             auto rx = receiver(home);
             auto t = tap(home);
             const uint64_t bursts = kSanitized ? 20 : 100;
             uint64_t sent = 0;
             std::thread sending = in_thread([&] {
                 Random random(5);
                 for (uint64_t k = 0; k < bursts; ++k) {
                     for (uint64_t i = pick(random, 100); i != 0; --i) {
                         const uint64_t bytes = 32 + (pick(random, kMost - 32) >> pick(random, 11)) / 8 * 8;
                         Loan loan;
                         CHECK_EQ(tx->loan(1, loan, kForever, keep_going, bytes), Wait::ready);
                         fill(loan.data, bytes / 8, bytes, sent++);
                         tx->commit(loan, 1);
                     }
                     CHECK_EQ(tx->drain(kForever, keep_going), Wait::ready);
                 }
                 CHECK(tx->growth().grown != 0);
                 tx->close(false);
             });
             std::thread receiving = in_thread([&] {
                 Taken taken;
                 for (uint64_t n = 0; rx->receive(1, taken, kForever, keep_going) == Wait::ready; ++n) {
                     CHECK_EQ(reinterpret_cast<const uint64_t*>(taken.data)[1], n);
                     rx->end(taken, false);
                 }
             });
             std::vector<std::byte> copy(kMost);
             uint64_t next = 0, extents = 0;
             while (t->wait(kForever, keep_going) == Wait::ready) {
                 Sight s;
                 if (!t->find(1, s)) continue;
                 CHECK(s.room() <= kMost);
                 if (!t->read(s, [&] { copy_shared(copy.data(), s.data(), s.room()); })) continue;
                 const auto* w = reinterpret_cast<const uint64_t*>(copy.data());
                 CHECK(w[0] <= s.room());
                 CHECK_EQ(w[1], next + s.missed);
                 verify(copy.data(), w[0] / 8, 0);
                 next = w[1] + 1;
                 extents += s.extent != 0;
             }
             sending.join(), receiving.join();
             CHECK(next > sent / 2 && extents != 0);
         }},
    });
}

}  // namespace psyne::test::tap_follow
