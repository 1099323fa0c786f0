// The ends as Python holds them.
#pragma once

#include <psyne/net/gateway.hpp>

#include "counts.hpp"
#include "message.hpp"

namespace psyne::python {

inline constexpr int kPolls = 100;  // about a microsecond with the GIL: as long as letting it go and taking it back

/// One type of messages of a channel.
struct Kind {
    nb::object type;    // their class
    nb::object layout;  // its Layout, kept alive
    Layout* shape;
    uint64_t header;  // VariantHdr of its messages, as a word
};

/// What all ends share: who uses it, which process made it, what its messages are.
struct End {
    std::vector<Kind> kinds;  // by type number
    nb::object batch_type;
    uint64_t generation = fork_generation.load(std::memory_order_relaxed);
    bool busy = false;  // a thread is inside
    bool closed = false;
    uint64_t armed = 0;  // since when an event loop waits for this end
    bool level = false;  // fileno() was asked for: its level is kept
    std::unique_ptr<Bell> bell;  // once an event loop waits for this end
    bool joined = false;  // a member of its channel
    bool prepared = false;  // of an anonymous channel: its types were known before it joined
    std::string address, alias;  // alias: of a network end, whose local channel has another one
    NamesPtr names;       // where a receiver or tap looks for its channel,
    std::string channel;  // and its name
    Counts counts;
    std::shared_ptr<net::Gateway> gateway;  // of an end whose peers are on other hosts
    struct Signal {
        std::string error, text;
        bool for_good;
    };
    std::unique_ptr<Signal> signal;  // what the next call raises; or all calls from now on

    /// Joined by the parent process, or its connections are there: not ours. Another end works in a forked child.
    bool forked() const { return generation != fork_generation.load(std::memory_order_relaxed) && (joined || gateway); }
    void has_joined() {
        joined = true;
        generation = fork_generation.load(std::memory_order_relaxed);
    }
    /// Enters the end for one call; false with an exception set.
    bool enter() {
        if (!closed && !busy && !signal && !forked()) [[likely]] {
            busy = true;
            return true;
        }
        return refuse();
    }
    bool refuse();
    bool refuse_signal();  // false with the exception set

    /// Of a message with this header; null with PeerCorrupted set.
    const Kind* kind_of(uint64_t header) const;
    /// The kind that a class (or a base of one kind only) names; null with an exception set.
    const Kind* kind_named(PyObject* type) const;
    /// The kind that `o` can be sent as; null with LayoutMismatch set.
    const Kind* kind_for(PyObject* o) const;
    /// "Imu, Alarm"
    std::string kinds_text() const;
};

struct SenderEnd : End {
    std::unique_ptr<Sender> sender;
    bool drops = false;  // full="drop"
    uint64_t budget = 0;  // full="grow": bytes of the channel
    uint64_t slab = 0, grown = 0;  // the number of the ring that was lent from last, and how often it had grown
    uint64_t planned = 0;  // capacity that it will have, before it joins
    bool close_failed = false;
    uint64_t called = 0;   // messages of call() that are waited for or read
    uint64_t held_back = 0;  // messages that are published when their events are done
    bool starved = false;  // a task waits for room that they take: the next that ends rings the bell
    SenderEnd() = default;
    ~SenderEnd();
};

struct ReceiverEnd : End {
    bool follow = false;
    std::atomic<bool> interrupted{false};  // one wait ends as if its time were over
    std::unique_ptr<Receiver> receiver;             // null until the channel exists
    std::vector<std::unique_ptr<Receiver>> former;  // of replaced channels, while messages live
    MessageObject* held = nullptr;                  // messages that were taken and not ended
    uint64_t released_later = 0;                    // messages that go on when their events are done, counted
    ReceiverEnd() = default;
    ~ReceiverEnd();
};

struct TapEnd : End {
    bool follow = false;
    bool late = false;  // it waits or has waited for its channel: from there on it reads from the first message
    std::atomic<bool> interrupted{false};  // one wait ends as if its time were over
    std::unique_ptr<Tap> tap;              // null until the channel exists
    TapEnd() = default;
    ~TapEnd();
};

inline Sender* core_of(SenderEnd& e) { return e.sender.get(); }
inline Receiver* core_of(ReceiverEnd& e) { return e.receiver.get(); }
inline Tap* core_of(TapEnd& e) { return e.tap.get(); }

/// Tells the logger psyne (at most once a second and cause). False when a signal handler raised meanwhile.
bool warn(const std::string& text);

/// Logs whom this end has buried, and what became of their messages. False as for `warn`.
bool tell_burials(Registry& registry);

/// Runs in each slice of a wait: with the GIL, tells what happened, looks at signals; false when a handler raised.
struct Tick {
    Registry& registry;
    const Sender* waiting = nullptr;  // for room: after a second it says why, and at once why its ring cannot grow
    uint64_t since = sys::now_ns();
    bool told = false, told_refusal = false;

    bool operator()() {
        const bool late = waiting && !told && sys::now_ns() - since > 1'000'000'000;
        const WithGil gil;
        if (!registry.burials.dead.empty() && !tell_burials(registry)) return false;
        if (const std::string why = waiting && !told_refusal ? waiting->refused() : ""; !why.empty()) {
            told_refusal = true;
            if (!warn("the ring of a sender of " + registry.address() + " cannot grow: " + why)) return false;
        }
        if (late) {
            told = true;
            if (!warn("sender of " + registry.address() + " has waited 1 s for room: " + waiting->why_full())) return false;
        }
        return run_pending();
    }
};

/// Ends the wait of the thread that is inside, which looks again.
template <class E>
void wake(E& e) {
    core_of(e)->registry.wake(core_of(e)->registry.id);
    if (e.gateway) e.gateway->wake();
}

/// Called when the last user leaves a closed end, and by its last message.
void close_now(SenderEnd& e);
void close_now(ReceiverEnd& e);
void close_now(TapEnd& e);

/// Brings the level of fileno() up to date.
void keep_level(SenderEnd& e);
void keep_level(ReceiverEnd& e);
void keep_level(TapEnd& e);
/// The bell goes by another name when its end has found a channel, and when that is over.
void joined(ReceiverEnd& e);
void joined(TapEnd& e);
void left(ReceiverEnd& e);
void left(TapEnd& e);
/// An end that cannot use the channel that it has joined, or goes on to the next.
void leave_channel(ReceiverEnd& e);
void leave_channel(TapEnd& e);
int fileno_of(nb::object end);
/// LeaseLimit: the oldest slot is used by the sender's own arrays.
void own_views_stand(SenderEnd& e);
/// The channels inside this process: memory://.
const std::shared_ptr<Process>& process_names();

/// A place as Python has it: the path of a directory, "" for this process, or the descriptor of an anonymous channel.
NamesPtr names_of(nb::handle place);
/// What another process wrote, as text.
nb::object shared_text(const std::string& bytes);

/// Ends whose life locks a forked child must drop.
void remember_end(Registry* registry);
void forget_end(Registry* registry);

/// Messages that were sent go over the network, in this thread if nobody is at it.
inline void tell_network(SenderEnd& e) {
    if (!e.gateway || !e.gateway->asleep()) [[likely]]
        return;
    const WithoutGil nogil;
    e.gateway->kick();
}

template <class E>
struct Inside {  // leaves the end, and closes it if close() came meanwhile
    E& end;
    ~Inside() {
        if constexpr (std::is_same_v<E, SenderEnd>) tell_network(end);
        end.busy = false;
        if (end.closed) [[unlikely]]
            close_now(end);
        else if (end.level) [[unlikely]]
            keep_level(end);
    }
};

inline SenderEnd& sender_end(PyObject* o) { return *nb::inst_ptr<SenderEnd>(o); }
inline ReceiverEnd& receiver_end(PyObject* o) { return *nb::inst_ptr<ReceiverEnd>(o); }
inline TapEnd& tap_end(PyObject* o) { return *nb::inst_ptr<TapEnd>(o); }

/// Calls `f` with the end behind a Python object that messages come out of.
template <class F>
auto with_reader(nb::handle o, F&& f) {
    if (nb::isinstance<ReceiverEnd>(o)) return f(receiver_end(o.ptr()));
    if (nb::isinstance<TapEnd>(o)) return f(tap_end(o.ptr()));
    throw nb::type_error("not an end that receives");
}

}  // namespace psyne::python
