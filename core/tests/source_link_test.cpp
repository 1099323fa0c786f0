// What the sending side of a link keeps count of, connection by connection.
#include "links.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

/// The numbers of DATA frames.
std::vector<uint64_t> sequences(const Bytes& bytes) {
    std::vector<uint64_t> all;
    for (const Header& h : headers(bytes))
        if (h.type == Frame::data)
            for (uint64_t i = 0; i < h.count; ++i) all.push_back(h.sequence + i);
    return all;
}
using Numbers = std::vector<uint64_t>;
using Frames = std::vector<Frame>;
Frames types(const Bytes& bytes) {
    Frames all;
    for (const Header& h : headers(bytes)) all.push_back(h.type);
    return all;
}
void ack(OutLink& out, uint64_t let_go, uint64_t received) { drink_all(out, frame({Frame::ack, 0, 0, 8, let_go}, received)); }

/// A sender's channel and its outgoing link; the far end is what a test says.
struct Alone {
    Home home;
    Kind kind;
    Near near;
    OutLink& out = near.out;
    explicit Alone(Kind k = {}) : kind(std::move(k)), near(home, kind) { out.connected(0, kind.far_capacity); }
    void put(uint64_t number, uint64_t count = 1) { CHECK(send(kind, *near.tx, number, count)); }
};

}  // namespace

TESTS(source_link_test) {
    return check::run({
        {"nothing goes into frames while there is no connection",
         [] {
             Alone a;
             a.out.disconnected();
             a.put(0);
             goodbye(a.near.tx);
             CHECK_EQ(pour_all(a.out).size(), 0u);
             a.out.connected(0, 8);
             CHECK(types(pour_all(a.out)) == Frames({Frame::data, Frame::end}));
             Alone ended;
             ended.out.disconnected();
             goodbye(ended.near.tx);
             CHECK_EQ(pour_all(ended.out).size(), 0u);
         }},
        {"a connection whose far ring is smaller gets what is under way again, and no more",
         [] {
             Alone a;
             for (uint64_t i = 0; i < 6; ++i) a.put(i);
             pour_all(a.out);
             ack(a.out, 1, 2);
             a.out.disconnected();
             a.put(6);
             a.out.connected(2, 2);
             CHECK(sequences(pour_all(a.out)) == Numbers({2, 3, 4, 5}));
             ack(a.out, 4, 6);
             CHECK_EQ(pour_all(a.out).size(), 0u);
             ack(a.out, 5, 6);
             CHECK(sequences(pour_all(a.out)) == Numbers({6}));
         }},
        {"what is sent again counts as let go only when it is written again",
         [] {
             Alone a;
             a.put(0, 2);
             pour_all(a.out);
             a.out.disconnected();
             a.out.connected(0, 8);
             Bytes some;
             CHECK_EQ(pour(a.out, some, 100), 100u);
             ack(a.out, 2, 2);
             CHECK_EQ(a.out.let_go(), 0u);
             pour_all(a.out);
             CHECK_EQ(a.out.let_go(), 2u);
         }},
        {"another far end gets all that was not let go, from number 0 on",
         [] {
             Joined j;
             for (uint64_t i = 0; i < 6; ++i) j.put(i);
             pour_all(j.near.out);
             ack(j.near.out, 2, 4);
             j.put(6);
             pour_all(j.near.out);
             j.near.out.disconnected();
             j.near.out.restart();
             CHECK_EQ(j.near.out.outstanding(), 0u);
             j.near.out.connected(0, 8);
             j.talk();
             for (uint64_t i = 2; i < 7; ++i) j.check_got(i);
             j.put(7);
             goodbye(j.near.tx);
             j.talk();
             j.check_got(7);
             j.talk();
             CHECK(j.near.out.finished() && j.far.in.finished());
             CHECK_EQ(j.near.rx->outstanding(), 0u);
         }},
        {"what was let go and still lay in a frame is not for another far end",
         [] {
             Joined j;
             j.put(0, 4);
             Bytes some;
             pour(j.near.out, some, 100);
             ack(j.near.out, 3, 4);
             j.near.out.disconnected();
             j.near.out.restart();
             CHECK_EQ(j.near.tx->occupied(), 1u);
             j.near.out.connected(0, 8);
             j.talk();
             j.check_got(3);
             CHECK(nothing(*j.far.rx));
         }},
        {"another far end is told the end again, and may get more after one that left or was told that this was all",
         [] {
             Alone ended, left, finished;
             for (Alone* a : {&ended, &left, &finished}) a->put(0), pour_all(a->out);
             goodbye(ended.near.tx);
             pour_all(ended.out);
             drink_all(ended.out, frame({Frame::bye}));
             CHECK(ended.out.understood());
             drink_all(left.out, frame({Frame::leave}));
             finished.out.finish();
             for (Alone* a : {&ended, &left, &finished}) {
                 a->out.disconnected();
                 a->out.restart();
                 a->out.connected(0, 8);
                 CHECK(!a->out.understood() && !a->out.left());
                 const Frames wanted = a == &ended ? Frames({Frame::data, Frame::end}) : Frames({Frame::data});
                 CHECK(types(pour_all(a->out)) == wanted);
             }
         }},
        {"it wants messages while it may send more, and not otherwise",
         [] {
             Alone a, ended, left, finished;
             CHECK(a.out.wants_messages());
             for (uint64_t i = 0; i < 8; ++i) a.put(i);
             pour_all(a.out);
             CHECK(!a.out.wants_messages());  // no credit
             ack(a.out, 1, 8);
             CHECK(a.out.wants_messages());
             goodbye(ended.near.tx);
             pour_all(ended.out);
             CHECK(!ended.out.wants_messages());
             drink_all(ended.out, frame({Frame::bye}));
             ended.out.disconnected();
             ended.out.connected(0, 8);
             CHECK(!ended.out.wants_messages());
             drink_all(left.out, frame({Frame::leave}));
             CHECK(!left.out.wants_messages());
             finished.out.finish();
             CHECK(!finished.out.wants_messages());
         }},
        {"it is finished when the far end has let go of all and was told that its BYE came",
         [] {
             Alone a;
             CHECK(!a.out.finished());
             a.put(0);
             pour_all(a.out);
             ack(a.out, 0, 1);
             goodbye(a.near.tx);
             pour_all(a.out);
             ack(a.out, 1, 1);
             CHECK(!a.out.finished());
             drink_all(a.out, frame({Frame::bye}));
             CHECK(a.out.understood() && a.out.owes_bye() && !a.out.finished());
             iovec pieces[4];
             CHECK_EQ(a.out.gather(pieces, 4, 1 << 20), 1u);
             CHECK(!a.out.finished());  // its last word is not written
             CHECK(types(pour_all(a.out)) == Frames({Frame::bye}));
             CHECK(a.out.finished());
         }},
        {"an answer to BYE that was lost is told again, and nothing else",
         [] {
             Alone a;
             goodbye(a.near.tx);
             pour_all(a.out);
             drink_all(a.out, frame({Frame::bye}));
             CHECK(types(pour_all(a.out)) == Frames({Frame::bye}));
             CHECK_EQ(pour_all(a.out).size(), 0u);
             a.out.disconnected();
             a.out.connected(0, 8);
             CHECK(a.out.owes_bye());
             CHECK(types(pour_all(a.out)) == Frames({Frame::bye}));
             a.out.disconnected();
             a.out.connected(0, 8);
             a.out.disconnected();
             CHECK(!a.out.owes_bye());  // nobody needs another connection for it
         }},
        {"BYE says that all was received, and comes only behind an END that was written",
         [] {
             Alone early, late;
             early.put(0), late.put(0);
             goodbye(early.near.tx), goodbye(late.near.tx);
             Bytes some;
             pour(early.out, some, 100);
             CHECK_THROWS(protocol, "an end that was not sent", drink_all(early.out, frame({Frame::bye})));
             pour_all(late.out);
             drink_all(late.out, frame({Frame::bye}));
             CHECK_EQ(late.out.received(), 1u);
         }},
        {"an END is told once in a connection",
         [] {
             Alone a;
             goodbye(a.near.tx);
             CHECK(types(pour_all(a.out)) == Frames({Frame::end}));
             Bytes more;
             CHECK_EQ(pour(a.out, more), 0u);
         }},
        {"who finishes sends what is in its hands, takes no more, and ends",
         [] {
             Alone a({{rows(100)}, 2048, 2048});
             a.put(0, 2000);
             Bytes all;
             pour(a.out, all, 100);
             CHECK(a.out.sent() < 300);
             a.out.finish();
             a.put(2000);
             const Bytes rest = pour_all(a.out);  // more frames than the outbox takes at once
             all.insert(all.end(), rest.begin(), rest.end());
             CHECK_EQ(sequences(all).size(), 2000u);
             CHECK_EQ(headers(all).back().type, Frame::end);
             CHECK_EQ(headers(all).back().sequence, 2000u);
         }},
        {"an END for which there is no room waits for it",
         [] {
             Alone a;
             iovec piece[1];
             for (int i = 0; i < 1000; ++i) {
                 drink_all(a.out, frame({Frame::ping, 0, 0, 8, 0}));
                 a.out.gather(piece, 1, 1);
             }
             goodbye(a.near.tx);
             a.out.gather(piece, 1, 1);
             CHECK_EQ(headers(pour_all(a.out)).back().type, Frame::end);
         }},
        {"nothing is sent to a far end that has left",
         [] {
             Alone a;
             a.put(0, 2);
             pour_all(a.out);
             drink_all(a.out, frame({Frame::leave}));
             a.put(2);
             goodbye(a.near.tx);
             CHECK_EQ(pour_all(a.out).size(), 0u);
         }},
        {"what is given back is not written any more",
         [] {
             Alone a({{rows(100)}, 512, 512, false, false, false, kShared});
             a.put(0, 300);
             Bytes some;
             pour(a.out, some, 1000);
             a.out.give_back();
             CHECK_EQ(a.out.unwritten(), 0u);
             CHECK_EQ(a.out.outstanding(), 0u);
             auto colleague = open_receiver(a.home.directory, "near", "", Spinner::Mode::block, "test");
             for (uint64_t i = 0; i < 300; ++i) check_next(a.kind, *colleague, i);
             CHECK_EQ(pour_all(a.out).size(), 0u);
         }},
        {"a channel that may go on has no end",
         [] {
             Joined j;
             j.near.rx->follow = true;
             j.put(0);
             goodbye(j.near.tx);
             j.talk();
             CHECK(!j.far.in.ended());
             j.check_got(0);
             j.near.tx = j.kind.sender(j.home, "near", 8, false);
             j.put(1);
             j.talk();
             j.check_got(1);
             j.near.rx->follow = false;
             goodbye(j.near.tx);
             j.talk();
             CHECK(j.far.in.ended());
         }},
        {"frames are of 4096 messages and of a mebibyte at most, except of one message that is larger",
         [] {
             const auto check = [](uint64_t bytes, uint64_t capacity, uint64_t most) {
                 Alone a({{rows(bytes)}, capacity, capacity});
                 a.put(0, capacity);
                 const Bytes all = pour_all(a.out);
                 for (const Header& h : headers(all)) CHECK(h.count <= most);
                 CHECK_EQ(headers(all).front().count, most);
                 CHECK_EQ(sequences(all).size(), capacity);
             };
             check(8, 10'000, 4096);
             check(0, 5000, 256);  // a piece each, if they had bytes
             check(300'000, 8, 3);
             check(2 << 20, 2, 1);
         }},
        {"frames that have no room wait for it",
         [] {
             for (const MessageShape& s : {shaped(64, 8, 1), shaped(64, 1, 1), rows(100)}) {  // many heads, many pieces
                 Joined j({{s}, 2048, 2048});
                 for (uint64_t i = 0; i < 2000; ++i) j.put(i);
                 iovec pieces[Outbox::kPieces];
                 j.near.out.gather(pieces, Outbox::kPieces, 1 << 20);
                 CHECK(j.near.out.sent() < 2000);
                 j.talk();
                 for (uint64_t i = 0; i < 2000; ++i) j.check_got(i);
             }
         }},
        {"what was lost in front of a message is told with it alone, also when it is sent again",
         [] {
             Kind k{{shaped(100, 1, 1, 0), rows(8, 1)}, 8, 8, false, false, true};
             for (const uint64_t let_go : {0, 1}) {
                 Alone a(k);
                 Loan loan = lend(*a.near.tx);
                 loan.variant = 77;  // nobody knows it
                 a.near.tx->commit(loan, 1);
                 a.near.tx->drop(~0u);
                 a.put(3, 2);
                 const Bytes lost = pour_all(a.out);
                 CHECK_EQ(DataHead::decode(lost.data() + kHeader).missed, ~0u);  // as many as can be told
                 ack(a.out, let_go, 1);
                 a.out.disconnected();
                 a.out.connected(1, 8);
                 const Bytes again = pour_all(a.out);
                 CHECK(sequences(again) == Numbers({1}));
                 CHECK_EQ(DataHead::decode(again.data() + kHeader).missed, 0u);
             }
         }},
        {"messages that are good for nothing keep nobody for long",
         [] {
             Alone a({{rows(8), rows(8, 1)}, 64, 64});
             for (int i = 0; i < 40; ++i) {
                 Loan loan = lend(*a.near.tx);
                 loan.variant = 2 + i % 2;
                 a.near.tx->commit(loan, 1);
             }
             iovec pieces[4];
             CHECK_EQ(a.out.gather(pieces, 4, 1 << 20), 0u);
             CHECK_EQ(a.out.corrupted(), 16u);
             pour_all(a.out), pour_all(a.out);
             CHECK_EQ(a.out.corrupted(), 40u);
             CHECK_EQ(a.near.tx->occupied(), 0u);
         }},
        {"a slot that is smaller than its message is good for nothing",
         [] {
             Kind small{{rows(8)}, 8, 8};
             for (const MessageShape& s : {rows(64), shaped(64, 2, 4)}) {
                 Home home;
                 auto tx = small.sender(home, "near", 8, false);
                 auto rx = open_receiver(home.directory, "near", "", Spinner::Mode::block, "test");
                 OutLink out(*rx, {s});
                 out.connected(0, 8);
                 test::put(*tx, 0), test::put(*tx, 0);  // as if of no elements
                 CHECK_EQ(pour_all(out).size(), 0u);
                 CHECK_EQ(out.corrupted(), 2u);
             }
         }},
    });
}
