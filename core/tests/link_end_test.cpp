// What the two sides of a link tell each other besides messages.
#include "links.hpp"

using namespace psyne;
using namespace psyne::test;

TESTS(link_end_test) {
    return check::run({
        {"a channel that ended ends behind the link, and tells whether a sender was lost",
         [] {
             for (const bool failed : {false, true}) {
                 Joined j;
                 j.put(0);
                 goodbye(j.near.tx, failed);
                 j.talk();
                 CHECK(j.near.out.understood() && !j.near.out.finished());  // the far end still has to read it
                 CHECK(j.far.in.ended() && !j.far.in.finished());
                 CHECK_EQ(j.far.in.failed(), failed);
                 j.check_got(0);
                 j.talk();
                 CHECK(j.near.out.finished() && j.far.in.finished());
             }
         }},
        {"an end that was under way when the connection broke is told again",
         [] {
             Joined j;
             goodbye(j.near.tx);
             pour_all(j.near.out);
             j.disconnect(), j.connect();
             drink_all(j.far.in, pour_all(j.near.out));  // now its answer is lost
             CHECK(j.far.in.ended());
             pour_all(j.far.in);
             j.disconnect();
             CHECK(!j.near.out.understood() && !j.far.in.finished());
             j.connect();
             j.talk();
             CHECK(j.near.out.finished() && j.far.in.finished());
         }},
        {"the end comes behind messages that were taken and wait for room in a frame",
         [] {
             Joined j({{rows(100)}, 512, 512});
             j.put(0, 300);
             goodbye(j.near.tx);
             Bytes some;
             CHECK_EQ(pour(j.near.out, some, 100), 100u);
             CHECK(j.near.out.sent() < 300);
             drink_all(j.far.in, some);
             j.talk();
             CHECK_EQ(j.far.in.next(), 300u);
             CHECK(j.far.in.ended());
         }},
        {"a full far ring does not keep the end back",
         [] {
             Joined j({{rows(64)}, 4, 2});
             j.put(0), j.put(1);
             goodbye(j.near.tx);
             j.talk();
             CHECK(j.far.in.ended());
         }},
        {"what a far end that left did not let go goes to other members of the stage",
         [] {
             Joined j({{rows(64)}, 8, 8, false, false, false, kShared});
             for (uint64_t i = 0; i < 4; ++i) j.put(i);
             j.talk();
             j.check_got(0);
             j.far.in.acknowledge();
             j.talk();
             j.far.in.leave();
             j.put(4);
             j.talk();
             CHECK(j.near.out.left());
             drink_all(j.far.in, Bytes(200'000));  // whatever still comes
             CHECK_EQ(j.far.in.next(), 4u);
             j.disconnect(), j.connect();
             CHECK_EQ(Header::decode(pour_all(j.far.in).data() + kHeader + 8).type, Frame::leave);  // perhaps it did not hear it
             j.near.out.give_back();
             auto colleague = open_receiver(j.home.directory, "near", "", Spinner::Mode::block, "test");
             for (uint64_t i = 1; i < 5; ++i) check_next(j.kind, *colleague, i);
         }},
        {"a sign of life is answered, behind what was let go",
         [] {
             Joined j;
             j.put(0);
             j.talk();
             j.check_got(0);
             j.near.out.ping(41);
             drink_all(j.far.in, pour_all(j.near.out));
             const Bytes answer = pour_all(j.far.in);
             CHECK_EQ(answer.size(), 2 * (kHeader + 8));
             CHECK_EQ(Header::decode(answer.data()).type, Frame::ack);
             CHECK_EQ(Header::decode(answer.data()).sequence, 1u);
             CHECK_EQ(Header::decode(answer.data() + kHeader + 8).type, Frame::pong);
             drink_all(j.near.out, answer);
             CHECK_EQ(j.near.out.pong(), 41u);
             j.far.in.ping(42);
             j.talk();
             CHECK_EQ(j.far.in.pong(), 42u);
         }},
        {"an ACK comes for a quarter of the ring, not for each message",
         [] {
             Joined j({{rows(64)}, 64, 64});
             j.talk();
             uint64_t acks = 0;
             for (uint64_t i = 0; i < 256; ++i) {
                 j.put(i);
                 drink_all(j.far.in, pour_all(j.near.out));
                 j.check_got(i);
                 const Bytes back = pour_all(j.far.in);
                 acks += !back.empty();
                 drink_all(j.near.out, back);
             }
             CHECK(acks >= 16 && acks <= 32);
         }},
        {"the last words say why, and nothing is taken behind them",
         [] {
             Joined j;
             j.put(0);
             j.far.in.refuse("{\"error\": \"ProtocolError\"}");
             Bytes last, more;
             pour(j.far.in, last);
             j.far.in.ping(1);
             CHECK_EQ(pour(j.far.in, more), 0u);
             last.resize(last.size() + 100);  // whatever comes with them
             drink_all(j.near.out, last);
             CHECK_EQ(j.near.out.refused(), "{\"error\": \"ProtocolError\"}");
             drink_all(j.near.out, Bytes(200'000));
             CHECK(!j.near.out.waits_for_rest());
             j.disconnect();
             CHECK(!j.near.out.refused().empty());
             j.connect();
             CHECK(j.near.out.refused().empty());
             j.talk();
             j.check_got(0);
             j.far.in.acknowledge();
             j.talk();
             CHECK_EQ(j.near.tx->occupied(), 0u);
             Joined other;
             other.near.out.refuse(std::string(100'000, 'x'));
             other.talk();
             CHECK_EQ(other.far.in.refused().size(), kMostReason);
             other.disconnect(), other.connect();
             other.put(0);
             other.talk();
             other.check_got(0);
         }},
        {"last words of no words are words, and behind them comes nothing, not even with them",
         [] {
             Joined j;
             drink_all(j.far.in, frame({Frame::refuse}));
             CHECK_EQ(j.far.in.refused(), "{}");
             j.put(0);
             goodbye(j.near.tx);
             j.near.out.refuse("{}");
             const Bytes last = pour_all(j.near.out);
             CHECK_EQ(headers(last).size(), 1u);
             Joined ended;
             goodbye(ended.near.tx);
             pour_all(ended.near.out);
             drink_all(ended.near.out, frame({Frame::bye}));
             ended.near.out.refuse("{}");
             CHECK_EQ(headers(pour_all(ended.near.out)).back().type, Frame::refuse);
         }},
        {"what was to be said in a connection that broke is not said in the next",
         [] {
             Joined j;
             j.talk();
             for (Link* link : {static_cast<Link*>(&j.near.out), static_cast<Link*>(&j.far.in)}) {
                 link->ping(1);
                 link->refuse("{}");
                 drink_all(*link, frame({Frame::ping, 0, 0, 8, 0}));
             }
             j.disconnect(), j.connect();
             CHECK_EQ(pour_all(j.near.out).size(), 0u);
             CHECK_EQ(pour_all(j.far.in).size(), kHeader + 8);  // an ACK
         }},
        {"a frame that has begun and is not whole is waited for",
         [] {
             Joined j({{rows(64)}, 8, 2});
             Link& in = j.far.in;
             j.near.out.disconnected();
             j.near.out.connected(0, 8);  // believes in more slots than there are
             CHECK(!in.waits_for_rest());
             j.put(0), j.put(1), j.put(2);
             const Bytes all = pour_all(j.near.out);
             size_t at = drink(in, all.data(), all.size(), 10);
             CHECK(in.waits_for_rest());  // of a header
             at += drink(in, all.data() + at, kHeader + kDataHead + 64);
             CHECK(in.waits_for_rest());  // of its messages
             at += drink(in, all.data() + at, all.size() - at);
             CHECK_EQ(at, all.size());
             CHECK(in.stuck() && !in.waits_for_rest());  // it is here, but for the last
             j.disconnect(), j.connect();
             CHECK(!in.waits_for_rest());
             const std::span<std::byte> room = in.buffer();
             std::memcpy(room.data(), all.data(), 10);
             in.arrived(10);
             CHECK(in.waits_for_rest());
         }},
        {"bytes arrive where they were asked for, and only there",
         [] {
             Joined j;
             InLink& in = j.far.in;
             CHECK_THROWS(invalid, "1 bytes arrived in a buffer of 0", in.arrived(1));
             const std::span<std::byte> first = in.buffer();
             CHECK_THROWS(invalid, "arrived in a buffer of", in.arrived(first.size() + 1));
             in.disconnected(), in.connected();
             CHECK_THROWS(invalid, "in a buffer of 0", in.arrived(1));  // that of another connection
             j.put(0);
             const Bytes all = pour_all(j.near.out);
             CHECK_EQ(drink(in, all.data(), all.size(), 10), 10u);
             CHECK_THROWS(invalid, "in a buffer of 0", in.arrived(1));
             const std::span<std::byte> second = in.buffer();
             CHECK(second.data() == first.data() + 10 && second.size() == first.size() - 10);
         }},
    });
}
