// What both ends share: entering, closing, forks, warnings.
#include "ends.hpp"

#include <psyne/variant.hpp>

#include <pthread.h>

#include <mutex>

namespace psyne::python {

namespace {

// Registries of this process, for the fork handler.
std::mutex registries_lock;
std::vector<Registry*> registries;

void before_fork() {
    registries_lock.lock();
    process_names()->before_fork();
}
void after_fork_in_parent() {
    process_names()->after_fork_in_parent();
    registries_lock.unlock();
}
void after_fork_in_child() {
    process_names()->after_fork_in_child();
    fork_generation.fetch_add(1);
    for (Registry* r : registries) r->file.forget_locks();
    registries.clear();
    registries_lock.unlock();
}

/// Leaves with a receiver that holds no message any more; true when it has left.
bool leave_now(Receiver& r) {
    if (r.registry.id == Registry::kNobody) return true;
    if (r.outstanding() != 0) return false;
    forget_end(&r.registry);
    leave(r.registry);
    return true;
}

}  // namespace

const std::shared_ptr<Process>& process_names() {
    static const auto names = std::make_shared<Process>();
    return names;
}

void remember_end(Registry* registry) {
    static const int installed = ::pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    (void)installed;
    std::lock_guard guard(registries_lock);
    registries.push_back(registry);
}

void forget_end(Registry* registry) {
    std::lock_guard guard(registries_lock);
    std::erase(registries, registry);
}

bool End::refuse() {
    if (!joined && !gateway && !closed && generation != fork_generation.load(std::memory_order_relaxed)) {
        has_joined();  // the number of this process
        joined = busy = false;
        return enter();
    }
    if (forked())
        raise("ForkedError", "this end of " + address + " belongs to the parent process; open one of its own in the child (of an "
                             "anonymous channel, clone() it)");
    else if (signal && !closed && !busy)
        refuse_signal();
    else if (closed)
        raise("ChannelClosed", "this end of " + address + " was closed");
    else
        raise("ConcurrentUse", "another thread is using this end of " + address +
                                   "; an end has one user at a time: open one for each thread");
    return false;
}

bool End::refuse_signal() {
    const Signal s = *signal;
    if (!s.for_good) signal.reset();
    raise(s.error.c_str(), s.text);
    return false;
}

std::string End::kinds_text() const {
    std::string text;
    for (const Kind& k : kinds) {
        text += (text.empty() ? "" : ", ") + std::string(reinterpret_cast<PyTypeObject*>(k.type.ptr())->tp_name);
        if (kinds.size() == 1) text += " " + k.shape->text();
    }
    return text;
}

const Kind* End::kind_of(uint64_t header) const {
    const size_t type = VariantHdr::of(header).type;
    if (type < kinds.size() && kinds[type].header == header) return &kinds[type];
    const VariantHdr h = VariantHdr::of(header);
    raise("PeerCorrupted", "a message of " + address + " says that it is of type " + std::to_string(h.type) + " (dtype code " +
                               std::to_string(h.dtype) + ", " + std::to_string(h.ndim) + " dimensions, flags " +
                               std::to_string(h.flags) + "); the channel has the types 0 to " +
                               std::to_string(kinds.size() - 1) + ". It was passed over; its sender is damaged or hostile");
    return nullptr;
}

const Kind* End::kind_named(PyObject* type) const {
    const Kind* found = nullptr;
    size_t count = 0;
    if (type == Py_None) {
        if (kinds.size() == 1) return &kinds[0];
        PyErr_Format(PyExc_TypeError, "%s carries several types; say which one: loan(%s)", address.c_str(),
                     reinterpret_cast<PyTypeObject*>(kinds[0].type.ptr())->tp_name);
        return nullptr;
    }
    if (!PyType_Check(type)) {
        PyErr_Format(PyExc_TypeError, "loan() takes a message class, not %R; timeout=, shape= and size= are keywords", type);
        return nullptr;
    }
    for (const Kind& k : kinds) {
        if (k.type.ptr() == type) return &k;
        if (!PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(k.type.ptr()), reinterpret_cast<PyTypeObject*>(type))) continue;
        found = &k;
        ++count;
    }
    if (count == 1) return found;
    raise("LayoutMismatch", address + " carries " + (count ? std::to_string(count) + " types that are a " : "no ") +
                                reinterpret_cast<PyTypeObject*>(type)->tp_name + "; its types are " + kinds_text());
    return nullptr;
}

bool warn(const std::string& text) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject* module = PyImport_ImportModule("psyne.log");
    PyObject* done = module ? PyObject_CallMethod(module, "warn", "N", text_of(shown(text))) : nullptr;
    // KeyboardInterrupt and SystemExit are not the logger's: they go to whoever waits.
    const bool fine = done || PyErr_ExceptionMatches(PyExc_Exception);
    Py_XDECREF(done);
    Py_XDECREF(module);
    if (fine) {
        PyErr_Clear();
        PyErr_Restore(type, value, trace);
    } else if (type) {
        PyErr_WriteUnraisable(nullptr);
        PyErr_Restore(type, value, trace);
    }
    return fine;
}

bool tell_burials(Registry& registry) {
    const Burials b = std::exchange(registry.burials, {});
    for (const std::string& who : b.dead) {
        std::string text = "a member of " + registry.address() + " died (" + who + ")";
        if (&who == &b.dead.back()) {
            if (b.redelivered) text += "; messages that it held are redelivered: " + std::to_string(b.redelivered);
            if (b.dropped) text += "; half-changed messages taken out: " + std::to_string(b.dropped);
            if (b.poisoned) text += "; messages skipped because three owners died on them: " + std::to_string(b.poisoned);
        }
        if (!warn(text)) return false;
    }
    return true;
}

void close_now(SenderEnd& e) {
    if (!e.sender || e.forked() || e.sender->registry.id == Registry::kNobody) return;
    forget_end(&e.sender->registry);
    if (e.bell) e.bell->forget_name();
    e.sender->close(e.close_failed);
    if (e.gateway) e.gateway->wake();  // that it was the last
    if (const uint64_t unread = leave(e.sender->registry); unread != 0)
        if (!warn(std::to_string(unread) + (unread == 1 ? " message of " : " messages of ") + e.address +
                  (unread == 1 ? " was" : " were") + " never read: its last end closed. drain() waits until all is read"))
            PyErr_WriteUnraisable(nullptr);
}

void close_now(ReceiverEnd& e) {
    if (e.forked()) return;
    std::erase_if(e.former, [](const auto& r) { return leave_now(*r); });
    if (e.closed && e.bell) e.bell->forget_name();
    if (!e.receiver || !e.closed || e.receiver->registry.id == Registry::kNobody) return;
    if (state_in<MemberState>(e.receiver->registry.me().state.load(seq_cst)) == MemberState::active) e.receiver->close();
    leave_now(*e.receiver);
}

void close_now(TapEnd& e) {
    if (e.forked() || !e.closed) return;
    if (e.bell) e.bell->forget_name();
    if (!e.tap || e.tap->registry.id == Registry::kNobody) return;
    e.tap->close();
    forget_end(&e.tap->registry);
    leave(e.tap->registry);
}

}  // namespace psyne::python
