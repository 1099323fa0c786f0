// A channel that connections carry over sockets to another one, with the pumps of both sides, in one process.
#pragma once

#include "links.hpp"
#include "sleepers.hpp"

#include <sys/socket.h>

#include <psyne/net/gateway.hpp>

namespace psyne::test {

/// What a process has.
struct Host {
    std::atomic<uint64_t> told{0};
    std::shared_ptr<Pump> pump = std::make_shared<Pump>([this] { ++told; });
    std::shared_ptr<Gateway> gateway = std::make_shared<Gateway>(pump);
    ~Host() {
        gateway.reset();
        pump.reset();
    }
};

/// The channel `name` of one host.
struct Local {
    Kind kind;
    std::string name;
    const Home& home;
    Local(const Home& h, std::string n, Kind k = {}) : kind(std::move(k)), name(std::move(n)), home(h) {}
    std::unique_ptr<Sender> sender(bool far = false) const {
        SideColumns columns;
        columns.remote = far;
        return open_sender(home.directory, name, kind.spec(),
                           {kind.stride(), far ? kind.far_capacity : kind.capacity, columns, Spinner::Mode::block}, "test");
    }
    std::unique_ptr<Receiver> receiver(Spinner::Mode wait = Spinner::Mode::block) const {
        return open_receiver(home.directory, name, "", wait, "test");
    }
};

/// A connection from the stage of one channel into a lane of another.
struct Wire {
    std::unique_ptr<Receiver> member;
    std::unique_ptr<Sender> lane;
    std::shared_ptr<Connection> out, in;
    Gateway &from, &to;

    Wire(const Local& near, const Local& far, Gateway& f, Gateway& t, bool kicked = true) : from(f), to(t) {
        lane = far.sender(true);
        member = near.receiver();
        out = std::make_shared<Connection>(std::make_unique<OutSide<OutLink, Receiver>>(*member, near.kind.shapes, near.kind.checksum),
                                           kicked ? f.sleepers : nullptr);
        in = std::make_shared<Connection>(std::make_unique<InSide>(*lane, far.kind.shapes, far.kind.checksum), nullptr);
        from.add(out), to.add(in);
    }
    ~Wire() {
        disconnect();
        from.remove(*out), to.remove(*in);
    }
    InLink& in_link() { return static_cast<InLink&>(in->link()); }
    OutLink& out_link() { return static_cast<OutLink&>(out->link()); }
    /// As after a handshake: the incoming side says where to go on.
    void connect(Pump& a, Pump& b, bool small = false) {
        int fd[2];
        CHECK_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
        const int bytes = 4096;
        for (int one : fd)
            if (small) ::setsockopt(one, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
        uint64_t next, capacity;
        {
            const std::lock_guard guard(in->lock);
            next = in_link().next(), capacity = in_link().capacity();
            in->connect(sys::Fd(fd[1]), 0, 0);
        }
        b.wake();
        {
            const std::lock_guard guard(out->lock);
            out->connect(sys::Fd(fd[0]), next, capacity);
        }
        a.wake();
    }
    void disconnect() {
        for (Connection* c : {out.get(), in.get()}) {
            const std::lock_guard guard(c->lock);
            c->disconnect();
        }
    }
};

/// Waits for room and sends, as a sender over the network does.
inline void send_carried(const Kind& k, Sender& tx, Gateway& gateway, uint64_t number) {
    Loan loan;
    CHECK_EQ(tx.loan(1, loan, kForever, keep_going), Wait::ready);
    write_message(k.shape(number), loan, 0, number);
    loan.variant = k.shape(number).variant;
    tx.commit(loan, 1);
    if (gateway.asleep()) gateway.kick();
}
inline Taken receive_carried(Receiver& rx, Gateway& gateway, uint64_t limit = 1) {
    Taken t;
    CHECK_EQ(gateway.receive(rx, limit, t, kForever, keep_going), Wait::ready);
    return t;
}
/// Receives `number`, whole.
inline void check_carried(const Kind& k, Receiver& rx, Gateway& gateway, uint64_t number) {
    const Taken t = receive_carried(rx, gateway);
    check_message(k.shape(number), t, 0, number);
    rx.end(t, false);
}

inline bool readable(int fd, int ms) {
    pollfd p{fd, POLLIN, 0};
    return ::poll(&p, 1, ms) == 1;
}

/// Two hosts, a channel on each, and a connection from the first to the second.
struct Pair {
    Home home;
    Host a, b;
    Local near, far;
    std::unique_ptr<Sender> tx;
    Wire wire;
    std::unique_ptr<Receiver> rx;
    explicit Pair(Kind kind = {}, bool kicked = true, Spinner::Mode wait = Spinner::Mode::block)
        : near(home, "near", kind), far(home, "far", kind), tx(near.sender()), wire(near, far, *a.gateway, *b.gateway, kicked),
          rx(far.receiver(wait)) {
        connect();
    }
    void connect() { wire.connect(*a.pump, *b.pump); }
    void send(uint64_t number) { send_carried(near.kind, *tx, *a.gateway, number); }
    void check(uint64_t number) { check_carried(far.kind, *rx, *b.gateway, number); }
};

}  // namespace psyne::test
