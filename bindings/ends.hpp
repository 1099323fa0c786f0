// The two ends as Python holds them.
#pragma once

#include "message.hpp"

namespace psyne::python {

/// What both ends share: who uses it, which process made it, what its messages are.
struct End {
    nb::object type;    // class of the messages
    nb::object batch_type;
    nb::object layout;  // its Layout, kept alive
    Layout* shape = nullptr;
    uint64_t generation = fork_generation.load(std::memory_order_relaxed);
    bool busy = false;  // a thread is inside
    bool closed = false;
    std::string address;

    bool forked() const { return generation != fork_generation.load(std::memory_order_relaxed); }
    /// Enters the end for one call; false with an exception set.
    bool enter() {
        if (!closed && !busy && !forked()) [[likely]] {
            busy = true;
            return true;
        }
        return refuse();
    }
    bool refuse();
};

struct SenderEnd : End {
    std::unique_ptr<Sender> sender;
    bool drops = false;  // full="drop"
    bool close_failed = false;
    SenderEnd() = default;
    ~SenderEnd();
};

struct ReceiverEnd : End {
    bool follow = false;
    std::unique_ptr<Receiver> receiver;             // null until the channel exists
    std::vector<std::unique_ptr<Receiver>> former;  // of replaced channels, while messages live
    ReceiverEnd() = default;
    ~ReceiverEnd();
};

/// Tells the logger psyne (at most once a second and cause). False when a signal handler raised meanwhile.
bool warn(const std::string& text);

/// Logs whom this end has buried, and what became of their messages. False as for `warn`.
bool tell_burials(Registry& registry);

/// Runs in each slice of a wait: with the GIL, tells what happened, looks at signals; false when a handler raised.
struct Tick {
    Registry& registry;
    const Sender* waiting = nullptr;  // for room: after a second it says why
    uint64_t since = sys::now_ns();
    bool told = false;

    bool operator()() {
        const bool late = waiting && !told && sys::now_ns() - since > 1'000'000'000;
        nb::gil_scoped_acquire gil;
        if (!registry.burials.dead.empty() && !tell_burials(registry)) return false;
        if (late) {
            told = true;
            if (!warn("sender of ipc://" + registry.name + " has waited 1 s for room: " + waiting->why_full())) return false;
        }
        return PyErr_CheckSignals() == 0;
    }
};

/// Called when the last user leaves a closed end, and by its last message.
void close_now(SenderEnd& e);
void close_now(ReceiverEnd& e);

/// Ends whose life locks a forked child must drop.
void remember_end(Registry* registry);
void forget_end(Registry* registry);

template <class E>
struct Inside {  // leaves the end, and closes it if close() came meanwhile
    E& end;
    ~Inside() {
        end.busy = false;
        if (end.closed) [[unlikely]]
            close_now(end);
    }
};

inline SenderEnd& sender_end(PyObject* o) { return *nb::inst_ptr<SenderEnd>(o); }
inline ReceiverEnd& receiver_end(PyObject* o) { return *nb::inst_ptr<ReceiverEnd>(o); }

}  // namespace psyne::python
