// What the receiving side of a link tells, and when.
#include "links.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

/// What it says now: of ACKs "let go/received".
std::string said(Link& link) {
    std::string all;
    const Bytes bytes = pour_all(link);
    size_t at = 0;
    for (const Header& h : headers(bytes)) {
        if (!all.empty()) all += ' ';
        if (h.type == Frame::ack) all += std::to_string(h.sequence) + '/' + std::to_string(get<uint64_t>(bytes.data() + at + kHeader));
        else all += h.type == Frame::bye ? "BYE" : h.type == Frame::leave ? "LEAVE" : h.type == Frame::pong ? "PONG" : h.type == Frame::ping ? "PING" : "other";
        at += kHeader + h.length;
    }
    return all;
}

/// A far channel; what comes to it is what a test sends.
struct Lonely {
    Home home;
    Kind kind;
    Far far;
    InLink& in = far.in;
    explicit Lonely(Kind k = {}) : kind(std::move(k)), far(home, kind) {
        in.connected();
        CHECK_EQ(said(in), "0/0");
    }
    void send(uint64_t count = 1) {
        const uint64_t size = kind.shapes[0].bytes;
        Bytes b = frame({Frame::data, 0, static_cast<uint32_t>(count), kDataHead + count * size, in.next()});
        DataHead{0, 0, 0, size}.encode(b.data() + kHeader);
        drink_all(in, b);
    }
    void end() { drink_all(in, frame({Frame::end, 0, 0, 1, in.next()})); }
    void bye() { drink_all(in, frame({Frame::bye})); }
    void take(uint64_t count = 1) { CHECK_EQ(take_batch(*far.rx, count), count); }
    void reconnect() { in.disconnected(), in.connected(); }
};

}  // namespace

TESTS(in_link_test) {
    return check::run({
        {"a connection begins with what was received and let go, even if that is known",
         [] {
             Lonely l;
             l.send(3);
             l.take();
             l.in.acknowledge();
             CHECK_EQ(said(l.in), "1/3");
             l.reconnect();
             l.in.acknowledge();  // there is nothing new
             CHECK_EQ(said(l.in), "1/3");
             CHECK_EQ(said(l.in), "");
         }},
        {"an ACK comes for a quarter of the ring that was received, or let go, or when it is asked for",
         [] {
             Lonely l({{rows(64)}, 16, 16});
             l.send(3);
             CHECK_EQ(said(l.in), "");
             l.in.acknowledge();
             CHECK_EQ(said(l.in), "0/3");
             l.send(3);
             CHECK_EQ(said(l.in), "");
             l.send(1);
             CHECK_EQ(said(l.in), "0/7");
             l.take(3);
             CHECK_EQ(said(l.in), "");
             l.take(1);
             CHECK_EQ(said(l.in), "4/7");
             l.take(1);
             l.in.acknowledge();
             CHECK_EQ(said(l.in), "5/7");
             l.in.acknowledge();
             CHECK_EQ(said(l.in), "");
         }},
        {"a ring of less than four messages tells only what is new",
         [] {
             Lonely l({{rows(64)}, 3, 3});
             CHECK_EQ(said(l.in), "");
             l.send();
             CHECK_EQ(said(l.in), "0/1");
             CHECK_EQ(said(l.in), "");
         }},
        {"an ACK comes for a mebibyte, and then for the next",
         [] {
             Lonely l({{rows(600'000)}, 16, 16});
             l.send();
             CHECK_EQ(said(l.in), "");
             l.send();
             CHECK_EQ(said(l.in), "0/2");
             l.send();
             CHECK_EQ(said(l.in), "");
         }},
        {"the last ACK comes when all is let go behind the END",
         [] {
             Lonely l({{rows(64)}, 64, 64});
             l.send(2);
             l.take();
             CHECK_EQ(said(l.in), "");
             l.end();
             CHECK_EQ(said(l.in), "1/2 BYE");
             CHECK_EQ(said(l.in), "");
             l.take();
             CHECK_EQ(said(l.in), "2/2");
             CHECK_EQ(said(l.in), "");
         }},
        {"it starves where most of the credit is used and the peer does not know what was let go",
         [] {
             Lonely l;
             CHECK(!l.in.starves());
             l.send(5);
             l.take();
             CHECK(!l.in.starves());  // the peer has credit for more
             l.send(1);
             CHECK(l.in.starves());
             CHECK_EQ(said(l.in), "1/6");
             CHECK(!l.in.starves());  // it knows
             l.send(1);
             CHECK(!l.in.starves());
         }},
        {"it is finished when the peer knows all, and knows that it was understood",
         [] {
             Lonely l;
             l.send(1);
             l.take();
             CHECK_EQ(said(l.in), "");
             l.end();
             CHECK_EQ(said(l.in), "1/1 BYE");
             CHECK(!l.in.finished() && !l.in.parted() && l.in.settled());
             l.bye();
             CHECK(l.in.parted() && l.in.finished());
             drink_all(l.in, frame({Frame::ping, 0, 0, 8, 0}));
             iovec pieces[4];
             CHECK(l.in.gather(pieces, 4, 1 << 20) != 0);
             CHECK(!l.in.finished());  // an answer is not written
             pour_all(l.in);
             CHECK(l.in.finished());
             l.reconnect();
             CHECK(!l.in.finished());
             CHECK_EQ(said(l.in), "1/1");
             CHECK(l.in.finished());
         }},
        {"BYE is for an END of this connection, told once, and what answers it comes behind it",
         [] {
             Lonely l;
             l.end();
             CHECK(l.in.owes_bye());
             CHECK_THROWS(protocol, "came from a sending side", l.bye());  // before ours
             l.reconnect();
             CHECK_EQ(said(l.in), "0/0");  // the END did not come again yet
             l.end();
             CHECK(l.in.owes_bye());
             CHECK_EQ(said(l.in), "0/0 BYE");
             CHECK_EQ(said(l.in), "");
             CHECK(!l.in.owes_bye());
             l.in.disconnected();
             CHECK(l.in.owes_bye());  // perhaps it was lost
         }},
        {"who leaves tells what was let go, and that once in each connection, and takes no more",
         [] {
             Lonely l({{rows(64)}, 16, 16});
             l.send(3);
             l.take();
             l.in.leave();
             CHECK_EQ(said(l.in), "1/3 LEAVE");
             CHECK_EQ(said(l.in), "");
             l.reconnect();
             l.send();
             CHECK_EQ(l.in.next(), 3u);
             CHECK_EQ(said(l.in), "1/3 LEAVE");
             Lonely stays;
             stays.reconnect();
             CHECK_EQ(said(stays.in), "0/0");
         }},
        {"who leaves and keeps what came lets go of it",
         [] {
             Lonely l;
             l.send(3);
             l.in.leave(true);
             CHECK_EQ(said(l.in), "3/3 LEAVE");
             for (int i = 0; i < 3; ++i) l.take();
         }},
        {"who leaves in the middle of a message leaves nothing of it",
         [] {
             Lonely l({{rows(5000)}, 4, 4});
             Bytes b = frame({Frame::data, 0, 2, kDataHead + 2 * 5000, 0});
             DataHead{0, 0, 0, 5000}.encode(b.data() + kHeader);
             b.resize(b.size() - 100);
             drink_all(l.in, b);
             l.in.leave();
             CHECK_EQ(l.in.next(), 1u);
             CHECK_EQ(l.far.tx->position(), 1u);
             l.take();
             CHECK(nothing(*l.far.rx));
         }},
        {"each message has the time that its frame gives it, or none",
         [] {
             Lonely l;
             Bytes b = frame({Frame::data, kStamps, 3, kDataHead + 3 * (8 + 64), 0});
             DataHead{0, 0, 0, 64}.encode(b.data() + kHeader);
             for (uint64_t i = 0; i < 3; ++i) put(b.data() + kHeader + kDataHead + 8 * i, 11 + i);
             const size_t first = b.size() - 128;
             CHECK_EQ(drink(l.in, b.data(), first), first);
             CHECK_EQ(l.in.next(), 1u);
             CHECK_EQ(drink(l.in, b.data() + first, 128), 128u);
             l.send();
             for (const uint64_t time : {11, 12, 13, 0}) {
                 const Taken t = test::take(*l.far.rx);
                 CHECK_EQ(t.remote(), time);
                 l.far.rx->end(t, false);
             }
         }},
        {"nobody else sends in the lane of a link",
         [] {
             Lonely l;
             put(*l.far.tx, 1);
             CHECK_THROWS(invalid, "somebody else sends in the lane of a link", l.send());
         }},
        {"a sign of life is answered once, behind an ACK",
         [] {
             Lonely l;
             drink_all(l.in, frame({Frame::ping, 0, 0, 8, 0}));
             CHECK_EQ(said(l.in), "0/0 PONG");
             CHECK_EQ(said(l.in), "");
             l.in.ping(1);
             CHECK_EQ(said(l.in), "PING");
             CHECK_EQ(said(l.in), "");
         }},
        {"who asks and reads no answer gets as many as there is room for, and then the last words",
         [] {
             Lonely l;
             iovec piece[1];
             for (int i = 0; i < 3000; ++i) {
                 drink_all(l.in, frame({Frame::ping, 0, 0, 8, 0}));
                 l.in.gather(piece, 1, 1);
                 CHECK(l.in.unwritten() <= Outbox::kHeads);
             }
             l.in.refuse(std::string(1000, ' '));
             l.in.gather(piece, 1, 1);
             CHECK(l.in.unwritten() <= Outbox::kHeads);
             CHECK_EQ(headers(pour_all(l.in)).back().type, Frame::refuse);
         }},
        {"what is left of a frame that waits for room is not written over by what comes",
         [] {
             Joined j({{rows(5000)}, 8, 2});
             j.near.out.disconnected();
             j.near.out.connected(0, 8);  // believes in more slots than there are
             j.put(0, 8);
             const Bytes all = pour_all(j.near.out);
             const size_t half = 4 * 5000;
             CHECK_EQ(drink(j.far.in, all.data(), half), half);
             CHECK(j.far.in.stuck());
             j.check_got(0);
             const std::span<std::byte> room = j.far.in.buffer();  // without a look whether there is room
             const size_t n = std::min(room.size(), all.size() - half);
             std::memcpy(room.data(), all.data() + half, n);
             j.far.in.arrived(n);
             for (uint64_t i = 1; i < 8; ++i) j.check_got(i), j.far.in.stuck();
         }},
    });
}
