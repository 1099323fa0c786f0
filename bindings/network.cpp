// Network ends: connections, who drives them, and the memory that their bytes go into or come from.
#include "ends.hpp"

#include <psyne/variant.hpp>

namespace psyne::python {

namespace {

/// The thread of this process that drives connections; a forked child has one of its own.
struct Network {
    uint64_t generation = fork_generation.load(std::memory_order_relaxed);
    sys::Fd news, teller;
    std::shared_ptr<net::Pump> pump;

    Network() {
        std::tie(news, teller) = sys::make_pipe();
        pump = std::make_shared<net::Pump>([fd = teller.get()] { (void)!::write(fd, "!", 1); });
    }
};

/// What a fork must find whole. It stays when static objects go, as the thread may.
struct ThisProcess {
    std::mutex lock;
    Network* network = nullptr;
    std::vector<net::Connection*> connections;  // a forked child closes their sockets: peers must see when the parent goes
};
ThisProcess& this_process = *new ThisProcess();

void before_fork() {
    this_process.lock.lock();
    if (this_process.network) this_process.network->pump->before_fork();
}
void after_fork_in_parent() {
    if (this_process.network) this_process.network->pump->after_fork_in_parent();
    this_process.lock.unlock();
}
void after_fork_in_child() {
    for (net::Connection* c : this_process.connections) c->close_in_child();
    this_process.connections.clear();
    if (this_process.network) this_process.network->pump->after_fork_in_child();
    this_process.lock.unlock();
}

Network& network() {
    const std::lock_guard guard(this_process.lock);
    Network*& n = this_process.network;
    if (!n || n->generation != fork_generation.load(std::memory_order_relaxed)) n = new Network();
    return *n;
}

/// A connection waits for something else than before; where a loop drives them all there is no pump.
void wake_pump() {
    const std::lock_guard guard(this_process.lock);
    Network* const n = this_process.network;
    if (n && n->generation == fork_generation.load(std::memory_order_relaxed)) n->pump->wake();
}

std::vector<net::MessageShape> shapes_of(const End& e) {
    std::vector<net::MessageShape> shapes;
    for (const Kind& k : e.kinds) {
        const Layout& l = *k.shape;
        net::MessageShape s;
        s.variant = e.kinds.size() > 1 ? k.header : 0;
        s.bytes = l.shaped ? l.room : l.bytes;
        s.shaped = l.shaped;
        if (l.shaped) {
            s.ndim = static_cast<uint32_t>(l.dims.ndim);
            s.element = l.element();
        }
        if (l.columns)
            for (const Layout::Column& c : l.fields) s.columns.push_back({c.offset, c.bytes});
        shapes.push_back(std::move(s));
    }
    return shapes;
}

/// A connection as Python has it. It keeps the end alive whose memory it uses.
struct Wire {
    nb::object end;
    std::shared_ptr<net::Connection> connection;
    std::weak_ptr<net::Gateway> gateway;  // that it was added to
    uint64_t generation = fork_generation.load(std::memory_order_relaxed);

    ~Wire() {
        if (generation != fork_generation.load(std::memory_order_relaxed)) {  // it is the parent's, and so is who has its lock
            new std::shared_ptr(std::move(connection));
            return;
        }
        const WithoutGil nogil;
        if (const auto g = gateway.lock()) g->remove(*connection);  // which would ask an end that is gone
        {
            const std::lock_guard guard(this_process.lock);
            std::erase(this_process.connections, connection.get());
        }
        const std::lock_guard guard(connection->lock);
        connection->disconnect();
    }
};

std::unique_ptr<net::Side> side_of(nb::handle o, bool checksum, uint64_t max_frame) {
    if (nb::isinstance<SenderEnd>(o)) {
        SenderEnd& e = sender_end(o.ptr());
        return std::make_unique<net::InSide>(*e.sender, shapes_of(e), checksum, max_frame);
    }
    if (nb::isinstance<TapEnd>(o)) {
        TapEnd& e = tap_end(o.ptr());
        return std::make_unique<net::OutSide<net::TapLink, Tap>>(*e.tap, shapes_of(e), checksum);
    }
    ReceiverEnd& e = receiver_end(o.ptr());
    return std::make_unique<net::OutSide<net::OutLink, Receiver>>(*e.receiver, shapes_of(e), checksum);
}

void open_wire(Wire* w, nb::object end, bool checksum, std::shared_ptr<net::Gateway>* kicks, uint64_t max_frame) {
    new (w) Wire{end, std::make_shared<net::Connection>(side_of(end, checksum, max_frame), kicks ? (*kicks)->sleepers : nullptr), {}};
    const std::lock_guard guard(this_process.lock);
    this_process.connections.push_back(w->connection.get());
}

/// Calls `f` with the connection, under its lock.
template <class F>
auto inside(Wire& w, F&& f) {
    const WithoutGil nogil;
    const std::lock_guard guard(w.connection->lock);
    return f(*w.connection);
}

void connect(Wire& w, int fd, uint64_t next, uint64_t capacity, nb::bytes rest) {
    const std::string_view bytes(rest.c_str(), rest.size());
    inside(w, [&](net::Connection& c) { c.connect(sys::Fd(fd), next, capacity, bytes); });
    wake_pump();
}

double seconds_until(uint64_t due) {
    const uint64_t now = sys::now_ns();
    return due == kForever ? -1.0 : due > now ? static_cast<double>(due - now) * 1e-9 : 0.0;
}

/// Moves what can be moved without waiting; what it waits for then.
nb::tuple drive(Wire& w) {
    const net::Connection::Needs n = inside(w, [](net::Connection& c) {
        c.drive();
        return c.needs();
    });
    return nb::make_tuple((n.events & POLLIN) != 0, (n.events & POLLOUT) != 0, n.bell, seconds_until(n.due));
}

nb::object memory(const void* data, size_t n, bool writable) {
    PyObject* view = PyMemoryView_FromMemory(const_cast<char*>(static_cast<const char*>(data)), static_cast<Py_ssize_t>(n),
                                             writable ? PyBUF_WRITE : PyBUF_READ);
    if (!view) throw nb::python_error();
    return nb::steal(view);
}

nb::list gather(Wire& w, uint64_t bytes) {
    iovec pieces[64];
    const size_t n = inside(w, [&](net::Connection& c) { return c.link().gather(pieces, 64, bytes); });
    nb::list list;
    for (size_t i = 0; i < n; ++i) list.append(memory(pieces[i].iov_base, pieces[i].iov_len, false));
    return list;
}

nb::object buffer(Wire& w) {
    const auto to = inside(w, [](net::Connection& c) { return c.link().stuck() ? std::span<std::byte>{} : c.link().buffer(); });
    return memory(to.data(), to.size(), true);
}

}  // namespace

void bind_network(nb::module_& m) {
    static const int installed = ::pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    (void)installed;
    nb::class_<std::shared_ptr<net::Gateway>>(m, "Gateway", "What carries one channel over a network.")
        .def("__init__", [](std::shared_ptr<net::Gateway>* g, bool pumps) {
                 new (g) std::shared_ptr(std::make_shared<net::Gateway>(pumps ? network().pump : nullptr));
             }, nb::arg("pumps"), "`pumps`: the native thread drives its connections; else whoever watches `fileno`.")
        .def("fileno", [](std::shared_ptr<net::Gateway>& g) { return g->fileno(); }, "Readable: its connections must be driven.")
        .def("hush", [](std::shared_ptr<net::Gateway>& g) { g->hush(); })
        .def("add", [](std::shared_ptr<net::Gateway>& g, Wire& w) {
                 w.gateway = g;
                 const WithoutGil nogil;
                 g->add(w.connection);
             }, nb::arg("connection"))
        .def("remove", [](std::shared_ptr<net::Gateway>& g, Wire& w) {
                 const WithoutGil nogil;
                 g->remove(*w.connection);
             }, nb::arg("connection"))
        .def("wake", [](std::shared_ptr<net::Gateway>& g) {
                 const WithoutGil nogil;
                 g->wake();
             }, "Something became of the channel: whoever waits for it looks again.");
    nb::class_<Wire>(m, "Connection", "One connection: a link between a socket and an end of a local channel.")
        .def("__init__", open_wire, nb::arg("end"), nb::arg("checksum"), nb::arg("kicks").none(), nb::arg("max_frame"),
             nb::sig("def __init__(self, end: object, checksum: bool, kicks: Gateway | None, max_frame: int) -> None"))
        .def("connect", connect, nb::arg("fd"), nb::arg("next"), nb::arg("capacity"), nb::arg("rest"),
             "Go on over a socket, which becomes its own; below 0: the caller moves the bytes. `rest`: bytes that came already.")
        .def("disconnect", [](Wire& w) { inside(w, [](net::Connection& c) { c.disconnect(); }); })
        .def("restart", [](Wire& w) { inside(w, [](net::Connection& c) { c.side().restart(); }); },
             "The far end has nothing: what it has not let go comes first, from 0 on.")
        .def("leave", [](Wire& w, bool keeps) {
                 inside(w, [&](net::Connection& c) {
                     if (auto* in = dynamic_cast<net::InLink*>(&c.link())) in->leave(keeps);
                     c.drive();
                 });
                 wake_pump();
             }, nb::arg("keeps") = false, "Tell the sending side that nothing more is taken; `keeps`: it lets go of what has come, which stays here.")
        .def("finish", [](Wire& w) {
                 inside(w, [](net::Connection& c) {
                     if (auto* out = dynamic_cast<net::SourceLink*>(&c.link())) out->finish();
                     c.drive();
                 });
                 wake_pump();
             }, "Send no more than was sent, and say that this is the end.")
        .def("give_back", [](Wire& w) {
                 inside(w, [](net::Connection& c) {
                     if (auto* out = dynamic_cast<net::OutLink*>(&c.link())) out->give_back();
                 });
             }, "Other members get what the far end has not let go.")
        .def("ping", [](Wire& w, uint64_t word) {
                 inside(w, [&](net::Connection& c) {
                     c.link().ping(word);
                     c.drive();
                 });
                 wake_pump();
             }, nb::arg("word"))
        .def("refuse", [](Wire& w, const std::string& reason) {
                 inside(w, [&](net::Connection& c) {
                     c.link().refuse(reason);
                     c.drive();
                 });
                 wake_pump();
             }, nb::arg("reason"))
        .def_prop_ro("next", [](Wire& w) {
                 return inside(w, [](net::Connection& c) -> uint64_t {
                     auto* in = dynamic_cast<net::InLink*>(&c.link());
                     return in ? in->next() : dynamic_cast<net::SourceLink&>(c.link()).received();
                 });
             }, "The first sequence that the receiving side has not got, as far as this side knows.")
        .def_prop_ro("outstanding", [](Wire& w) {
                 return inside(w, [](net::Connection& c) -> uint64_t {
                     auto* out = dynamic_cast<net::SourceLink*>(&c.link());
                     return out ? out->outstanding() : 0;
                 });
             }, "Messages that were sent and that the far end has not let go.")
        .def_prop_ro("over", [](Wire& w) -> nb::object {
                 const char* why = inside(w, [](net::Connection& c) { return c.over(); });
                 return why ? nb::object(nb::str(why)) : nb::none();
             }, nb::sig("def over(self) -> str | None"), "What became of it: closed, failed (the far senders), understood (our end, by the far one), left (the far receiver).")
        .def_prop_ro("parted", [](Wire& w) { return inside(w, [](net::Connection& c) { return c.side().parted(); }); },
                     "The peer never comes back for this link.")
        .def_prop_ro("finished", [](Wire& w) { return inside(w, [](net::Connection& c) { return c.finished(); }); },
                     "It is over, and nothing has to be said any more.")
        .def_prop_ro("failure", [](Wire& w) -> nb::object {
                 const std::string why = inside(w, [](net::Connection& c) { return c.failure(); });
                 return why.empty() ? nb::none() : shared_text(shown(why));
             }, nb::sig("def failure(self) -> str | None"))
        .def_prop_ro("violated", [](Wire& w) {
                 return inside(w, [](net::Connection& c) { return c.failed() && c.failure_code() == Errc::protocol; });
             }, "Did it fail because of what the peer sent?")
        .def("take_violator", [](Wire& w) { return inside(w, [](net::Connection& c) { return c.take_violator().release(); }); },
             "The descriptor of the socket whose peer can be told what it did wrong; it is the caller's. -1: there is none.")
        .def_prop_ro("progress", [](Wire& w) {
                 const auto [in, rest, out, left] = inside(w, [](net::Connection& c) {
                     return std::tuple(c.link().bytes_in, c.link().waits_for_rest(), c.link().bytes_out, c.link().unwritten());
                 });
                 return nb::make_tuple(in, rest, out, left);
             }, nb::sig("def progress(self) -> tuple[int, bool, int, int]"),
             "Bytes that came; is a frame not whole; bytes that were written; bytes that wait to be.")
        .def_prop_ro("refused", [](Wire& w) { return shared_text(inside(w, [](net::Connection& c) { return c.link().refused(); })); },
                     nb::sig("def refused(self) -> str"), "The last words of the peer, JSON.")
        .def_prop_ro("silent", [](Wire& w) {
                 return inside(w, [](net::Connection& c) { return static_cast<double>(sys::now_ns() - c.heard()) * 1e-9; });
             }, "Seconds since something came.")
        .def_prop_ro("wants", [](Wire& w) {
                 const auto [bell, due] = inside(w, [](net::Connection& c) {
                     const int rings = c.settle();
                     return std::pair(rings, c.due());  // as it is then
                 });
                 const uint64_t now = sys::now_ns();
                 return nb::make_tuple(bell, due == kForever ? -1.0 : due > now ? static_cast<double>(due - now) * 1e-9 : 0.0);
             }, nb::sig("def wants(self) -> tuple[int, float]"),
             "For who moves the bytes, when there is nothing to move: a descriptor that wakes it or -1, and in how many seconds it must look.")
        .def("drive", drive, nb::sig("def drive(self) -> tuple[bool, bool, int, float]"),
             "Move what can be moved: then it waits to read, to write, for a descriptor or -1, and in how many seconds it must look or -1.")
        .def("gather", gather, nb::arg("bytes"), nb::sig("def gather(self, bytes: int) -> list[memoryview]"), "What is to be written now.")
        .def("written", [](Wire& w, uint64_t n) { inside(w, [&](net::Connection& c) { c.link().written(n); }); }, nb::arg("n"))
        .def("buffer", buffer, nb::sig("def buffer(self) -> memoryview"), "Where the next bytes that come belong; empty: there is no room now.")
        .def("arrived", [](Wire& w, uint64_t n) {
                 inside(w, [&](net::Connection& c) { c.arrived(n); });
                 const auto g = w.gateway.lock();
                 if (!g || !g->asleep()) return;
                 const WithoutGil nogil;
                 g->kick();
             }, nb::arg("n"));
    m.def("network_news", [] { return network().news.get(); }, "A descriptor that is readable when a connection has failed or is over.");
    m.def("attach", [](nb::object end, std::shared_ptr<net::Gateway>& g) {
              if (nb::isinstance<SenderEnd>(end)) sender_end(end.ptr()).gateway = g;
              else with_reader(end, [&](auto& e) { e.gateway = g; });
          }, nb::arg("end").lock(), nb::arg("gateway"), "The calls of this end drive the connections of a gateway.",
          nb::sig("def attach(end: object, gateway: Gateway) -> None"));
    m.def("rename", [](nb::object end, const std::string& address) {
              const auto name = [&](End& e) { e.alias = e.address = address; };
              if (nb::isinstance<SenderEnd>(end)) name(sender_end(end.ptr()));
              else with_reader(end, [&](auto& e) { name(e); });
          }, nb::arg("end").lock(), nb::arg("address"), nb::sig("def rename(end: object, address: str) -> None"));
    m.def("show_as", show_as, nb::arg("address"), nb::arg("shown"),
          "Errors and warnings call the channel at this address inside the process by another one; \"\": no more.");
    m.def("sum_drops", [](nb::object end) { sender_end(end.ptr()).sender->sum_drops(); }, nb::arg("end"),
          nb::sig("def sum_drops(end: object) -> None"), "Each message that this end sends says how many its source missed in all.");
    m.def("signal", [](nb::object end, const std::string& error, const std::string& text, bool for_good) {
              const auto set = [&](auto& e) {
                  if (e.signal && e.signal->for_good) return;
                  e.signal = std::make_unique<End::Signal>(End::Signal{error, text, for_good});
                  if (e.bell) e.bell->ring();
                  auto* core = core_of(e);
                  if (!core || !e.busy) return;
                  core->stopping.store(true);
                  wake(e);
              };
              if (nb::isinstance<SenderEnd>(end)) set(sender_end(end.ptr()));
              else with_reader(end, set);
          }, nb::arg("end").lock(), nb::arg("error"), nb::arg("text"), nb::arg("for_good"),
          nb::sig("def signal(end: object, error: str, text: str, for_good: bool) -> None"),
          "The wait of the thread inside, or the next call, raises this error of psyne.errors; for good: all calls from now on.");
}

}  // namespace psyne::python
