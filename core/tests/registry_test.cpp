#include "support.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

/// A channel with a sender and a member of its own that looks at the others.
struct Channel {
    Home home;
    std::unique_ptr<Sender> tx;
    explicit Channel(Pattern pattern = Pattern::mpmc, std::vector<StageSpec> stages = {{"main"}}) {
        tx = sender(home, spec(pattern, std::move(stages)));
    }
    Registry& r() { return tx->registry; }
    ChannelHeader& header() { return tx->registry.file.header(); }
    MemberState state(uint64_t id) { return state_in<MemberState>(r().file.member(id).state.load(seq_cst)); }
    std::unique_ptr<Registry> looker() {
        return std::make_unique<Registry>(std::move(*find_channel(home.directory, "test")), "looker");
    }
    /// A child that joins, takes `n` messages, does `then` with them, and is killed.
    template <class Then>
    uint64_t killed_receiver(const std::string& stage, int n, Then&& then) {
        static std::unique_ptr<Receiver> rx;
        Child c([&](Child&) {
            rx = receiver(home, stage);
            for (int i = 0; i < n; ++i) then(*rx, take(*rx));
        });
        c.wait_here();
        for (uint64_t i = 0; i < kMaxReceivers; ++i)
            if (static_cast<pid_t>(r().file.member(i).pid.load(relaxed)) == c.pid() && r().present(i)) return i;
        check::fail("the child is no member");
    }
};

const auto keep = [](Receiver&, const Taken&) {};

}  // namespace

TESTS(registry_test) {
    return check::run({
        {"a member gets the lowest free id, a new join number, and its life lock",
         [] {
             Channel c;
             auto a = receiver(c.home), b = receiver(c.home);
             CHECK_EQ(a->registry.id, 0u);
             CHECK_EQ(b->registry.id, 1u);
             CHECK_EQ(c.tx->registry.id, kMaxReceivers);
             CHECK(b->registry.join() > a->registry.join());
             CHECK_EQ(b->registry.me().pid.load(relaxed), static_cast<uint64_t>(::getpid()));
             CHECK_EQ(load_name(b->registry.me().name), std::string("test"));
             CHECK(sys::byte_locked(c.r().file.fd(), kLifeLocks + 1));
             const uint64_t join = b->registry.join();
             goodbye(a);
             auto d = receiver(c.home);
             CHECK_EQ(d->registry.id, 0u);  // the id is used again, the number is not
             CHECK(d->registry.join() > join);
         }},
        {"who is alive, stopped or asleep is not dead",
         [] {
             Channel c;
             Child child([&](Child&) {
                 static std::unique_ptr<Receiver> rx;
                 rx = receiver(c.home);
             });
             child.wait_here();
             child.signal(SIGSTOP);
             CHECK(c.r().living(0));
             CHECK(!c.r().bury_dead());
             CHECK(!c.r().dead(c.r().id));  // oneself never
         }},
        {"a killed process is dead before its parent has reaped it",
         [] {
             Channel c;
             Child child([&](Child&) {
                 static std::unique_ptr<Receiver> rx;
                 rx = receiver(c.home);
             });
             child.wait_here();
             child.signal(SIGKILL);
             while (!c.r().dead(0)) ::sched_yield();
             CHECK(!c.r().living(0));
             CHECK_EQ(c.state(0), MemberState::active);
             CHECK(c.r().bury_dead());
             CHECK_EQ(c.state(0), MemberState::swept);
             CHECK(!c.r().bury_dead());  // once is enough
         }},
        {"an end that vanished without leaving is dead, although its process lives",
         [] {
             Channel c;
             receiver(c.home).reset();
             CHECK(c.r().dead(0));
             CHECK(c.r().bury_dead());
         }},
        {"a process that only has the pid of the one that joined is not it",
         [] {
             Channel c;
             Child child([&](Child&) {
                 static std::unique_ptr<Receiver> rx;
                 rx = receiver(c.home);
             });
             child.wait_here();
             CHECK(!c.r().dead(0));
             c.r().file.member(0).start.fetch_add(1, relaxed);
             CHECK(c.r().dead(0));  // its lock is held all the same
             c.r().file.member(0).pid_namespace.fetch_add(1, relaxed);
             CHECK(!c.r().dead(0));  // of another namespace only the lock counts
         }},
        {"an unknown start time or namespace says nothing about death",
         [] {
             Channel c;
             Child child([&](Child&) {
                 static std::unique_ptr<Receiver> rx;
                 rx = receiver(c.home);
             });
             child.wait_here();
             c.r().file.member(0).start.store(0, relaxed);  // joined where /proc cannot be read
             CHECK(!c.r().dead(0));
         }},
        {"what a dead receiver had taken becomes an orphan, what it had passed is done",
         [] {
             Channel c;
             for (uint64_t i = 0; i < 4; ++i) put(*c.tx, i);
             auto other = receiver(c.home);
             take(*other);
             int nth = 0;
             const uint64_t id = c.killed_receiver("", 3, [&](Receiver& rx, const Taken& t) {
                 if (++nth == 2) rx.end(t, true);   // a view lives: PASSED
                 if (nth == 3) rx.end(t, false);
             });
             CHECK_EQ(ack_word(*c.tx, 1), word(1, Ack::taken, id));
             CHECK_EQ(ack_word(*c.tx, 2), word(1, Ack::passed, id));
             const uint64_t before = c.r().file.stage(0).orphans.load(seq_cst);
             CHECK(c.r().bury_dead());
             CHECK_EQ(ack_word(*c.tx, 0), word(1, Ack::taken, other->registry.id));  // not the dead one's
             CHECK_EQ(ack_word(*c.tx, 1), word(1, Ack::orphan) + kDeath);
             CHECK_EQ(ack_word(*c.tx, 2), word(1, Ack::done));
             CHECK_EQ(ack_word(*c.tx, 3), word(1, Ack::done));
             CHECK(c.r().file.stage(0).orphans.load(seq_cst) > before);
             CHECK_EQ(c.header().redelivered.load(relaxed), 1u);
         }},
        {"a half-changed message is dropped, or redelivered where the stage can repeat its change",
         [] {
             for (const bool redelivers : {false, true}) {
                 Channel c(Pattern::mpmc, {{"change", 0, true, redelivers}, {"read", 1}});
                 put(*c.tx, 1), put(*c.tx, 2);
                 int nth = 0;
                 c.killed_receiver("change", 2, [&](Receiver& rx, const Taken& t) {
                     if (nth++ == 0) rx.dirty(t);
                 });
                 CHECK(c.r().bury_dead());
                 CHECK_EQ(ack_word(*c.tx, 0),
                          redelivers ? (word(1, Ack::orphan) | kDirty) + kDeath : word(1, Ack::done) | kDrop);
                 CHECK_EQ(ack_word(*c.tx, 1), word(1, Ack::orphan) + kDeath);  // untouched: a true redelivery
                 CHECK_EQ(c.header().dropped.load(relaxed), redelivers ? 0u : 1u);
                 auto reader = receiver(c.home, "read");
                 auto change = receiver(c.home, "change");
                 if (redelivers) CHECK_EQ(take_value(*change), 1u);
                 CHECK_EQ(take_value(*change), 2u);
                 if (redelivers) CHECK_EQ(take_value(*reader), 1u);
                 CHECK_EQ(take_value(*reader), 2u);  // never sees the half-changed one
                 CHECK(nothing(*reader));
                 CHECK_EQ(ack_of(ack_word(*c.tx, 0, 1)), Ack::done);
             }
         }},
        {"a message whose work failed goes the same way, by its living owner, and is told to nobody as a death",
         [] {
             for (const bool redelivers : {false, true}) {
                 Channel c(Pattern::mpmc, {{"change", 0, true, redelivers}, {"read", 1}});
                 put(*c.tx, 1), put(*c.tx, 2);
                 auto change = receiver(c.home, "change"), reader = receiver(c.home, "read");
                 const Taken half = take(*change), untouched = take(*change);
                 change->dirty(half);
                 change->fail(half);
                 CHECK_EQ(ack_word(*c.tx, 0),
                          redelivers ? (word(1, Ack::orphan) | kDirty) + kDeath : word(1, Ack::done) | kDrop);
                 CHECK_EQ(c.header().dropped.load(relaxed), redelivers ? 0u : 1u);
                 CHECK_EQ(change->outstanding(), 1u);
                 change->fail(untouched);
                 CHECK_EQ(ack_word(*c.tx, 1), word(1, Ack::orphan) + kDeath);
                 CHECK_EQ(change->outstanding(), 0u);
                 CHECK_EQ(change->registry.burials.redelivered + change->registry.burials.dropped, 0u);
                 if (redelivers) CHECK_EQ(take_value(*change), 1u);
                 CHECK_EQ(take_value(*change), 2u);
                 if (redelivers) CHECK_EQ(take_value(*reader), 1u);
                 CHECK_EQ(take_value(*reader), 2u);
                 CHECK(nothing(*reader));
             }
         }},
        {"who holds every slot hoards them, unless they end by themselves",
         [] {
             Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             for (uint64_t i = 0; i < tx->capacity(); ++i) put(*tx, i), take(*rx);
             CHECK(rx->hoards());
             rx->held_back.fetch_add(1, relaxed);
             CHECK(!rx->hoards());
             rx->held_back.fetch_sub(1, relaxed);
             CHECK(rx->hoards());
         }},
        {"a message on which three owners died is taken out and counted",
         [] {
             Channel c(Pattern::mpmc, {{"a"}, {"b", 1}});
             put(*c.tx, 1), put(*c.tx, 2);
             for (uint64_t n = 1; n <= kMaxDeaths; ++n) {
                 c.killed_receiver("a", 1, [&](Receiver&, const Taken& t) {
                     CHECK_EQ(value_of(t), 1u);
                     CHECK_EQ(t.deaths, n - 1);
                 });
                 CHECK(c.r().bury_dead());
             }
             CHECK_EQ(ack_word(*c.tx, 0), word(1, Ack::done) | kDrop);
             CHECK_EQ(c.header().poisoned.load(relaxed), 1u);
             auto a = receiver(c.home, "a"), b = receiver(c.home, "b");
             CHECK_EQ(take_value(*a), 2u);
             CHECK_EQ(take_value(*b), 2u);  // the poison is not handed on
             CHECK(nothing(*a) && nothing(*b));
         }},
        {"an id is not used again before its member was buried",
         [] {
             Channel c;
             put(*c.tx, 1);
             c.killed_receiver("", 1, keep);
             auto first = c.looker();
             CHECK(first->enlist(0, kMaxReceivers, 0));
             CHECK_EQ(first->id, 1u);
             CHECK(c.r().bury_dead());
             auto second = c.looker();
             CHECK(second->enlist(0, kMaxReceivers, 0));
             CHECK_EQ(second->id, 0u);
             first->gone(), second->gone();
         }},
        {"an id is not used again while a living member may still bury it",
         [] {
             Channel c;
             Child stopped([&](Child&) {
                 static std::unique_ptr<Receiver> rx;
                 rx = receiver(c.home);
             });
             stopped.wait_here();
             receiver(c.home).reset();
             c.r().file.member(0).sweeping.store(2, seq_cst);  // as if stopped in the burial of id 1
             CHECK(c.r().bury_dead());
             CHECK_EQ(c.state(1), MemberState::swept);
             auto next = receiver(c.home);
             CHECK_EQ(next->registry.id, 2u);
             stopped.kill();  // the dead bury nobody
             auto last = receiver(c.home);
             CHECK(last->registry.id < 2);
         }},
        {"a burial that fails half-way blocks nobody's id for ever",
         [] {
             Channel c;
             auto rx = receiver(c.home);
             receiver(c.home).reset();
             const std::string slab = c.home.path + "/" + Directory::prefix("test", c.r().file.shape.generation) +
                                      std::to_string(c.r().join()) + ".0.slab";
             CHECK_EQ(::chmod(slab.c_str(), 0644), 0);  // cannot be opened as ours
             CHECK_THROWS(incompatible, "private", rx->registry.bury_dead());
             CHECK_EQ(rx->registry.me().sweeping.load(seq_cst), 0u);
             CHECK_EQ(::chmod(slab.c_str(), 0600), 0);
             CHECK(rx->registry.bury_dead());
             CHECK_EQ(c.state(1), MemberState::swept);
         }},
        {"a damaged record of a dead member is buried without harm",
         [] {
             Channel c;
             receiver(c.home).reset();
             c.r().file.member(0).stage.store(4000, relaxed);
             CHECK(c.r().bury_dead());
             CHECK_EQ(c.state(0), MemberState::swept);
         }},
        {"burial wakes everybody and clears the dead one's bit",
         [] {
             Channel c;
             auto rx = receiver(c.home);
             receiver(c.home).reset();
             c.r().file.stage(0).idle.store(3, seq_cst);  // both asleep
             const uint32_t wakes = rx->registry.me().wakes.load(seq_cst);
             CHECK(c.r().bury_dead());
             CHECK_EQ(c.r().file.stage(0).idle.load(seq_cst), 0u);
             CHECK_EQ(rx->registry.me().wakes.load(seq_cst), wakes + 1);
         }},
        {"a dead sender's lane is lost, and receivers are told",
         [] {
             Channel c;
             auto rx = receiver(c.home);
             Child child([&](Child&) {
                 static std::unique_ptr<Sender> tx;
                 tx = sender(c.home, spec(Pattern::mpmc));
                 put(*tx, 5);
             });
             child.wait_here();
             child.kill();
             CHECK(c.r().bury_dead());
             CHECK_EQ(state_in<LaneState>(c.r().file.lane(1).state.load(seq_cst)), LaneState::lost);
             CHECK_EQ(take_value(*rx), 5u);  // what it committed is delivered
             CHECK(!rx->ended());            // the other sender lives
             CHECK(rx->sender_lost());
         }},
        {"a sender that died before its lane was open leaves no files",
         [] {
             Channel c;
             auto looker = c.looker();
             CHECK(looker->enlist(kMaxReceivers, kMaxMembers, 0));
             Slab::create(looker->file.storage(), {1, looker->join(), 0, 0}, {64, 64, 8, 1, false});
             const size_t before = c.home.files().size();
             looker.reset();
             CHECK(c.r().bury_dead());
             CHECK_EQ(c.home.files().size(), before - 2);
             CHECK_EQ(state_in<LaneState>(c.r().file.lane(1).state.load(seq_cst)), LaneState::free);
         }},
        {"a lane's files go when it has ended and every stage has let go all of it",
         [] {
             Channel c(Pattern::mpmc, {{"a"}, {"b", 1}});
             auto a = receiver(c.home, "a"), b = receiver(c.home, "b");
             auto tx = sender(c.home, spec(Pattern::mpmc, {{"a"}, {"b", 1}}));
             put(*tx, 1);
             const auto lane = [&] { return state_in<LaneState>(c.r().file.lane(1).state.load(seq_cst)); };
             const size_t files = c.home.files().size();
             goodbye(tx);
             const Taken t = take(*a);
             c.r().reap();
             a->end(t, true);
             const Taken u = take(*b);
             b->end(u, false);
             c.r().reap();
             CHECK_EQ(lane(), LaneState::ended);  // a's view still lives
             CHECK_EQ(c.home.files().size(), files);
             a->end(t, false);
             c.r().reap();
             CHECK_EQ(lane(), LaneState::free);
             CHECK_EQ(c.home.files().size(), files - 2);
         }},
        {"the place of the one sender goes to the next only when its holder is gone",
         [] {
             Channel c(Pattern::spsc);
             auto looker = c.looker();
             CHECK(looker->enlist(kMaxReceivers, kMaxMembers, 0));
             Atomic64& holder = c.header().sender_holder;
             CHECK(!looker->hold(holder));
             c.tx->close(false);
             CHECK(looker->hold(holder));
             looker->let_go_of(holder);
             CHECK_EQ(holder.load(seq_cst), 0u);
             looker->gone();
         }},
        {"a channel closes only when no living member is left",
         [] {
             Channel c;
             auto looker = c.looker();
             CHECK(!looker->close_if_empty());
             goodbye(c.tx);
             CHECK_EQ(state_in<ChannelState>(looker->file.header().state.load(seq_cst)), ChannelState::closed);
             CHECK(!looker->close_if_empty());  // once
             CHECK(!looker->count_in_channel());
         }},
    });
}
