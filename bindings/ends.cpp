// What both ends share: entering, closing, forks, warnings.
#include "ends.hpp"

#include <pthread.h>

#include <mutex>

namespace psyne::python {

namespace {

// Registries of this process, for the fork handler.
std::mutex registries_lock;
std::vector<Registry*> registries;

void before_fork() { registries_lock.lock(); }
void after_fork_in_parent() { registries_lock.unlock(); }
void after_fork_in_child() {
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
    if (forked())
        raise("ForkedError", "this end of " + address + " belongs to the parent process; open one of its own in the child");
    else if (closed)
        raise("ChannelClosed", "this end of " + address + " was closed");
    else
        raise("ConcurrentUse", "another thread is using this end of " + address +
                                   "; an end has one user at a time: open one for each thread");
    return false;
}

bool warn(const std::string& text) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject* module = PyImport_ImportModule("psyne.log");
    PyObject* done = module ? PyObject_CallMethod(module, "warn", "s", text.c_str()) : nullptr;
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
        std::string text = "a member of ipc://" + registry.name + " died (" + who + ")";
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
    e.sender->close(e.close_failed);
    if (const uint64_t unread = leave(e.sender->registry); unread != 0)
        if (!warn(std::to_string(unread) + " messages of " + e.address +
                  " were never read: its last end closed. drain() waits until all is read"))
            PyErr_WriteUnraisable(nullptr);
}

void close_now(ReceiverEnd& e) {
    if (e.forked()) return;
    std::erase_if(e.former, [](const auto& r) { return leave_now(*r); });
    if (!e.receiver || !e.closed || e.receiver->registry.id == Registry::kNobody) return;
    if (state_in<MemberState>(e.receiver->registry.me().state.load(seq_cst)) == MemberState::active) e.receiver->close();
    leave_now(*e.receiver);
}

}  // namespace psyne::python
