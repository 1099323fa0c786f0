// Bytes between a link and a socket.
#include "links.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

/// Always has more to write; what it wrote is read away at once, if `reader` is a socket.
class Endless final : public Link {
public:
    int reader = -1;
    uint64_t plans = 0;

private:
    Bytes some_ = Bytes(60'000);
    bool begin(const Header&, std::span<const std::byte>, size_t&) override { return false; }
    void take(const Header&, const std::byte*) override {}
    void plan(uint64_t) override {
        CHECK(++plans < 10'000);
        if (outbox_.empty()) outbox_.add(some_.data(), some_.size());
        while (reader >= 0 && ::recv(reader, some_.data(), some_.size(), MSG_DONTWAIT) > 0) {
        }
    }
};

}  // namespace

TESTS(transfer_test) {
    return check::run({
        {"a link that always has more leaves others their turn, and wants to be back at once",
         [] {
             Endless link;
             SocketPair s;
             link.reader = s.fd[1];
             CHECK_EQ(transfer(link, s.fd[0]), POLLIN | POLLOUT);
             CHECK(link.bytes_out >= kMostMoved && link.bytes_out < kMostMoved + kGather);
         }},
        {"a socket that takes no more is waited for, without trying again",
         [] {
             Endless link;
             SocketPair s;
             CHECK_EQ(transfer(link, s.fd[0]), POLLIN | POLLOUT);
             CHECK_EQ(static_cast<int>(link.bytes_out), s.unread(1));
             CHECK(link.plans < 1000);
             const uint64_t before = link.plans;
             CHECK_EQ(transfer(link, s.fd[0]), POLLIN | POLLOUT);
             CHECK_EQ(link.plans, before + 1);
         }},
        {"who has nothing to write waits for bytes alone",
         [] {
             Joined j;
             SocketPair s;
             transfer(j.far.in, s.fd[1]);
             CHECK_EQ(transfer(j.near.out, s.fd[0]), POLLIN);
         }},
        {"an answer goes out in the call in which the question came",
         [] {
             Joined j;
             SocketPair s;
             transfer(j.near.out, s.fd[0]);
             s.send(1, frame({Frame::ping, 0, 0, 8, 0}, 5));
             CHECK_EQ(transfer(j.near.out, s.fd[0]), POLLIN);
             CHECK_EQ(s.unread(1), static_cast<int>(kHeader + 8));
         }},
        {"who is told not to read reads nothing",
         [] {
             Joined j;
             SocketPair s;
             s.send(1, frame({Frame::ping, 0, 0, 8, 0}, 5));
             transfer(j.near.out, s.fd[0], false);
             CHECK_EQ(s.unread(0), static_cast<int>(kHeader + 8));
         }},
        {"where the ring has no room the socket is not read, nor waited for",
         [] {
             Joined j({{rows(5000)}, 16, 2});
             SocketPair s;
             j.near.out.disconnected();
             j.near.out.connected(0, 16);  // believes in more slots than there are
             j.put(0, 16);
             const Bytes all = pour_all(j.near.out);
             CHECK(all.size() > InLink::kScratch);
             s.send(0, all);
             CHECK_EQ(transfer(j.far.in, s.fd[1]) & POLLIN, 0);
             CHECK(j.far.in.stuck());
             const int left = s.unread(1);
             CHECK(left > 0);
             CHECK_EQ(transfer(j.far.in, s.fd[1]) & POLLIN, 0);
             CHECK_EQ(s.unread(1), left);
             for (uint64_t i = 0; i < 16; ++i) j.check_got(i), transfer(j.far.in, s.fd[1]);
             CHECK_EQ(transfer(j.far.in, s.fd[1]), POLLIN);
         }},
        {"a connection that is closed, or broken, is an error of the system",
         [] {
             Joined j, other;
             SocketPair closed, broken, gone;
             closed.close(1);
             CHECK_THROWS(system, "the peer closed the connection", transfer(j.near.out, closed.fd[0]));
             transfer(other.near.out, broken.fd[0]);
             other.put(0);
             transfer(other.near.out, broken.fd[0]);
             broken.close(1);  // and the message unread
             CHECK_THROWS(system, "cannot receive", transfer(other.near.out, broken.fd[0]));
             gone.close(1);
             j.put(0);
             CHECK_THROWS(system, "cannot send", transfer(j.near.out, gone.fd[0]));
         }},
    });
}
