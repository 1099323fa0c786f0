#include "support.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

ChannelSpec other_types() { return {"other types", 128, Pattern::mpsc, {{"main"}}}; }

std::optional<ChannelFile> find(const Home& home) { return find_channel(home.directory, "test"); }

/// A channel file with a name of its own, PROPOSED, and its maker's record.
std::unique_ptr<Registry> propose(const Home& home, uint64_t generation) {
    auto r = std::make_unique<Registry>(ChannelFile::make(*home.directory, "test", spec(), generation), "maker");
    CHECK(r->enlist(kMaxReceivers, kMaxMembers, 0));
    r->file.header().state.store(stated(1, ChannelState::proposed), seq_cst);
    CHECK(r->file.publish(*home.directory, "test"));
    return r;
}

}  // namespace

TESTS(opening_test) {
    return check::run({
        {"the first sender makes the channel and a receiver finds it",
         [] {
             const Home home;
             CHECK(receiver(home) == nullptr);
             auto tx = sender(home);
             auto rx = receiver(home);
             CHECK(rx != nullptr);
             put(*tx, 41);
             CHECK_EQ(take_value(*rx), 41u);
             goodbye(tx);
             goodbye(rx);
         }},
        {"the last one out removes the files, whoever it is",
         [] {
             for (const bool sender_last : {false, true}) {
                 const Home home;
                 auto tx = sender(home);
                 auto rx = receiver(home);
                 CHECK(!home.files().empty());
                 if (sender_last) {
                     goodbye(rx);
                     CHECK(!home.files().empty());
                     goodbye(tx);
                 } else {
                     goodbye(tx);
                     CHECK(!home.files().empty());
                     goodbye(rx);
                 }
                 CHECK(home.files().empty());
             }
         }},
        {"the last one out says how many messages nobody read",
         [] {
             const Home home;
             auto tx = sender(home);
             for (uint64_t i = 0; i < 5; ++i) put(*tx, i);
             auto rx = receiver(home);
             CHECK_EQ(take_value(*rx), 0u);
             CHECK_EQ(goodbye(rx), 0u);  // the sender is still there
             CHECK_EQ(goodbye(tx), 4u);
         }},
        {"ends join in any order and a second channel has other files",
         [] {
             const Home home;
             auto a = sender(home), b = sender(home);
             auto c = sender(home, spec(), {.name = "other"});
             auto rx = receiver(home);
             put(*a, 1), put(*b, 2), put(*c, 3);
             CHECK_EQ(take_value(*rx) + take_value(*rx), 3u);
             CHECK(nothing(*rx));
             goodbye(a), goodbye(b), goodbye(rx);
             CHECK_EQ(home.files().size(), 3u);  // channel, slab, acks of the other one
             goodbye(c);
         }},
        {"a channel with one sender names it to the second, and says how to have several",
         [] {
             const Home home;
             auto tx = sender(home, spec(Pattern::spsc));
             CHECK_THROWS(busy, "pid " + std::to_string(::getpid()), sender(home, spec(Pattern::spsc)));
             CHECK_THROWS(busy, "pattern=", sender(home, spec(Pattern::spsc)));
             goodbye(tx);
         }},
        {"a stage with one member names it to the second; another stage takes one more",
         [] {
             const Home home;
             auto tx = sender(home, spec(Pattern::mpsc, {{"a"}, {"b", 1}}));
             auto a = receiver(home, "a");
             CHECK_THROWS(busy, "stage 'a'", receiver(home, "a"));
             auto b = receiver(home, "b");
             goodbye(a);
             a = receiver(home, "a");  // its place is free again
             CHECK(a != nullptr);
             goodbye(tx), goodbye(a), goodbye(b);
         }},
        {"patterns with several members take them",
         [] {
             const Home home;
             auto tx = sender(home, spec(Pattern::mpmc));
             auto ty = sender(home, spec(Pattern::mpmc));
             auto a = receiver(home), b = receiver(home), c = receiver(home);
             goodbye(tx), goodbye(ty), goodbye(a), goodbye(b), goodbye(c);
             CHECK(home.files().empty());
         }},
        {"a receiver must say which stage it is of when there are several",
         [] {
             const Home home;
             auto tx = sender(home, spec(Pattern::mpsc, {{"rectify"}, {"infer", 1}}));
             CHECK_THROWS(invalid, "'rectify', 'infer'", receiver(home));
             CHECK_THROWS(invalid, "no stage 'draw'", receiver(home, "draw"));
             goodbye(tx);
         }},
        {"a living sender keeps its types: another layout is refused",
         [] {
             const Home home;
             auto tx = sender(home);
             CHECK_THROWS(mismatch, "types", sender(home, other_types()));
             CHECK_THROWS(mismatch, "pattern", sender(home, spec(Pattern::mpmc)));
             CHECK_THROWS(mismatch, "stages", sender(home, spec(Pattern::mpsc, {{"main"}, {"more", 1}})));
             CHECK_THROWS(mismatch, "stages", sender(home, spec(Pattern::mpsc, {{"main", 0, true}})));
             goodbye(tx);
         }},
        {"with no sender alive a sender with other types replaces the channel, and its receivers see the end",
         [] {
             const Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             put(*tx, 1);
             goodbye(tx);
             auto ty = sender(home, other_types());
             auto ry = receiver(home);
             CHECK_EQ(ry->registry.file.shape.payload_bytes, 128u);
             CHECK_EQ(take_value(*rx), 1u);  // what was sent before is still delivered
             CHECK(nothing(*rx));
             CHECK(rx->ended() && rx->closed());
             CHECK(!ry->ended());
             goodbye(rx);
             goodbye(ty), goodbye(ry);
             CHECK(home.files().empty());  // those of the replaced channel too
         }},
        {"the same types join the channel that is there",
         [] {
             const Home home;
             auto tx = sender(home);
             auto rx = receiver(home);
             put(*tx, 1);
             goodbye(tx);
             tx = sender(home);
             put(*tx, 2);
             CHECK_EQ(take_value(*rx), 1u);
             CHECK_EQ(take_value(*rx), 2u);
             goodbye(tx), goodbye(rx);
         }},
        {"what killed processes left never stops the next start",
         [] {
             for (const bool with_receiver : {false, true}) {
                 const Home home;
                 Child tx([&](Child&) {
                     static std::unique_ptr<Sender> s;
                     s = sender(home, spec(Pattern::spsc));
                     put(*s, 1);
                 });
                 tx.wait_here();
                 Child rx([&](Child&) {
                     static std::unique_ptr<Receiver> r;
                     if (with_receiver) r = receiver(home);
                 });
                 rx.wait_here();
                 rx.kill();
                 tx.kill();
                 CHECK(!home.files().empty());
                 auto ty = sender(home, other_types());
                 CHECK_EQ(home.files().size(), 3u);
                 auto ry = receiver(home);
                 put(*ty, 7);
                 CHECK_EQ(take_value(*ry), 7u);
                 goodbye(ty), goodbye(ry);
                 CHECK(home.files().empty());
             }
         }},
        {"looking for a channel removes what dead processes left",
         [] {
             const Home home;
             Child tx([&](Child&) {
                 static std::unique_ptr<Sender> s;
                 s = sender(home);
             });
             tx.wait_here();
             CHECK(find(home).has_value());
             tx.kill();
             CHECK(!find(home));
             CHECK(home.files().empty());
         }},
        {"a killed sender's place in an spsc channel is free at once",
         [] {
             const Home home;
             Child tx([&](Child&) {
                 static std::unique_ptr<Sender> s;
                 s = sender(home, spec(Pattern::spsc));
                 put(*s, 1);
             });
             tx.wait_here();
             auto rx = receiver(home);
             tx.kill();
             auto ty = sender(home, spec(Pattern::spsc));
             put(*ty, 2);
             CHECK_EQ(take_value(*rx) + take_value(*rx), 3u);
             goodbye(ty), goodbye(rx);
         }},
        {"of several proposals at most one is opened",
         [] {
             const Home home;
             auto a = propose(home, 1), b = propose(home, 2);
             CHECK(!find(home));  // proposals are no channels yet
             CHECK(win_proposal(home.directory, "test", *b));
             CHECK_EQ(state_in<ChannelState>(a->file.header().state.load(seq_cst)), ChannelState::closed);
             CHECK(!win_proposal(home.directory, "test", *a));
             CHECK_EQ(find(home)->shape.generation, 2u);
         }},
        {"a proposal gives way to a channel that is open, and to nobody that is closed",
         [] {
             const Home home;
             auto a = propose(home, 1);
             CHECK(win_proposal(home.directory, "test", *a));
             auto b = propose(home, 2);
             CHECK(!win_proposal(home.directory, "test", *b));
             CHECK_EQ(state_in<ChannelState>(b->file.header().state.load(seq_cst)), ChannelState::closed);
             a->file.header().state.store(stated(1, ChannelState::closed), seq_cst);
             auto c = propose(home, 3);
             CHECK(win_proposal(home.directory, "test", *c));
         }},
        {"a maker that was killed or stopped before it opened its proposal holds up nobody",
         [] {
             const Home home;
             Child killed([&](Child&) {
                 static std::unique_ptr<Registry> r;
                 r = propose(home, 1);
             });
             Child stopped([&](Child&) {
                 static std::unique_ptr<Registry> r;
                 r = propose(home, 2);
             });
             killed.wait_here(), stopped.wait_here();
             killed.kill();
             stopped.signal(SIGSTOP);
             auto tx = sender(home);
             auto rx = receiver(home);
             put(*tx, 3);
             CHECK_EQ(take_value(*rx), 3u);
             goodbye(tx), goodbye(rx);
             stopped.kill();
             CHECK(!find(home));
             CHECK(home.files().empty());
         }},
        {"processes that open the same channel at the same moment all end up in one",
         [] {
             const Home home;
             constexpr int n = 8;
             int gate[2];
             CHECK_EQ(::pipe2(gate, O_CLOEXEC), 0);
             std::vector<Child> children;
             for (int i = 0; i < n; ++i)
                 children.emplace_back([&](Child& me) {
                     static std::unique_ptr<Sender> s;
                     ::close(gate[1]);
                     me.here();
                     char c;
                     (void)!::read(gate[0], &c, 1);  // all at once when the parent closes it
                     s = sender(home, spec(Pattern::mpsc));
                     put(*s, 1);
                 });
             for (auto& c : children) c.wait_here();
             ::close(gate[0]), ::close(gate[1]);
             for (auto& c : children) c.wait_here();
             auto rx = receiver(home);
             for (int i = 0; i < n; ++i) CHECK_EQ(take_value(*rx), 1u);
             CHECK(nothing(*rx));
             CHECK_EQ(home.directory->generations("test").size(), 1u);
         }},
        {"names that cannot be file names are refused",
         [] {
             const Home home;
             for (const std::string& name : {std::string(), std::string("a/b"), std::string(".hidden"), std::string(129, 'x'),
                                             std::string("a\0b", 3)})
                 CHECK_THROWS(invalid, "1 to 128 bytes", sender(home, spec(), {.name = name}));
             auto tx = sender(home, spec(), {.name = std::string(128, 'x')});
             goodbye(tx);
             CHECK(home.files().empty());
         }},
        {"names with a part like those that psyne adds are refused: their files would be another channel's",
         [] {
             const Home home;
             for (const char* name : {"a.0123456789abcdef", "a.0123456789abcdef.b", "a.b.ffffffffffffffff"})
                 CHECK_THROWS(invalid, "16 hexadecimal digits", sender(home, spec(), {.name = name}));
             for (const char* name : {"a.0123456789abcde", "a.0123456789abcdef0", "0123456789abcdef", "a.0123456789ABCDEF", "a..b"}) {
                 auto tx = sender(home, spec(), {.name = name});
                 goodbye(tx);
             }
             CHECK(home.files().empty());
         }},
        {"no memory for the slab: an error with numbers, and no leftovers",
         [] {
             const Home home;
             CHECK_THROWS(no_space, "bytes (", sender(home, spec(Pattern::mpsc, {{"main"}}, 1 << 20), {.capacity = 1 << 22}));
             CHECK(home.files().empty());
         }},
        {"the 65th sender is told that the channel is full",
         [] {
             const Home home;
             std::vector<std::unique_ptr<Sender>> all;
             for (uint64_t i = 0; i < kMaxLanes; ++i) all.push_back(sender(home));
             CHECK_THROWS(busy, "64 senders", sender(home));
             goodbye(all[10]);
             all[10] = sender(home);  // its lane had nothing unread
             for (auto& s : all) goodbye(s);
             CHECK(home.files().empty());
         }},
    });
}
