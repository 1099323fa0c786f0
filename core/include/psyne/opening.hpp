// Finding, making and leaving channels. Opening waits for nobody.
//
// A channel's file is linked PROPOSED; its maker then looks at all files of the name, closes other proposals,
// and opens its own: of several makers at most one succeeds, and a killed or stopped one holds up nobody.
#pragma once

#include <memory>
#include <optional>

#include <psyne/directory.hpp>
#include <psyne/memory.hpp>
#include <psyne/receiver.hpp>
#include <psyne/sender.hpp>
#include <psyne/tap.hpp>

namespace psyne {

/// Has a part like those that Directory adds: 16 hexadecimal digits between points?
inline bool looks_like_generation(const std::string& name) {
    for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
        const size_t end = std::min(name.find('.', dot + 1), name.size());
        if (end - dot == 17 && name.find_first_not_of("0123456789abcdef", dot + 1) >= end) return true;
    }
    return false;
}

/// Names become file names: no '/', no NUL, not hidden.
inline void check_name(const std::string& name) {
    if (looks_like_generation(name))
        fail(Errc::invalid, "the name '" + name + "' has a part of 16 hexadecimal digits after a '.', which psyne itself "
                            "adds to file names; use another separator or another length");
    if (name.empty() || name.size() > 128 || name[0] == '.' || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos)
        fail(Errc::invalid, "a channel name has 1 to 128 bytes, no '/', no NUL and no '.' in front; got " +
                                std::to_string(name.size()) + " bytes");
}

/// The open file of a channel, if any. Removes what dead processes left.
inline std::optional<ChannelFile> find_channel(const NamesPtr& names, const std::string& name) {
    for (const uint64_t generation : names->generations(name)) {
        ChannelFile file = ChannelFile::open(*names, name, generation);
        if (!file) continue;
        Registry looker(std::move(file), "");
        Atomic64& state = looker.file.header().state;
        if (!looker.anybody_living()) {
            if (state_in<ChannelState>(state.load(seq_cst)) == ChannelState::closed || looker.close_if_empty())
                looker.file.storage().remove_all();
            if (state_in<ChannelState>(state.load(seq_cst)) == ChannelState::closed) continue;
        }
        if (state_in<ChannelState>(state.load(seq_cst)) == ChannelState::open) return std::move(looker.file);
    }
    return std::nullopt;
}

/// After the maker's own file was linked: true when it is now the open one.
inline bool win_proposal(const NamesPtr& names, const std::string& name, const Registry& mine) {
    Atomic64& own = mine.file.header().state;
    for (const uint64_t generation : names->generations(name)) {
        if (generation == mine.file.shape.generation) continue;
        const ChannelFile other = ChannelFile::open(*names, name, generation);
        if (!other) continue;
        Atomic64& state = other.header().state;
        uint64_t w = state.load(seq_cst);
        if (state_in<ChannelState>(w) == ChannelState::proposed)
            state.compare_exchange_strong(w, stated(count_in(w), ChannelState::closed), seq_cst);
        if (state_in<ChannelState>(state.load(seq_cst)) == ChannelState::open) {
            uint64_t p = own.load(seq_cst);
            own.compare_exchange_strong(p, stated(count_in(p), ChannelState::closed), seq_cst);
            return false;
        }
    }
    uint64_t p = own.load(seq_cst);
    return state_in<ChannelState>(p) == ChannelState::proposed &&
           own.compare_exchange_strong(p, stated(count_in(p), ChannelState::open), seq_cst);
}

/// Same types, pattern and stages?
inline std::string differs(const ChannelFile& c, const ChannelSpec& spec) {
    if (c.schema() != spec.schema) return "types";
    if (c.shape.pattern != spec.pattern) return "pattern";
    if (c.shape.stage_count != spec.stages.size()) return "stages";
    for (uint32_t i = 0; i < spec.stages.size(); ++i)
        if (load_name(c.stage(i).name) != spec.stages[i].name || c.stage(i).after.load(relaxed) != spec.stages[i].after ||
            (c.stage(i).mutates.load(relaxed) != 0) != spec.stages[i].mutates ||
            (c.stage(i).redelivers.load(relaxed) != 0) != spec.stages[i].redelivers)
            return "stages";
    return "";
}

[[noreturn]] inline void no_room(const Registry& r, const char* what, uint32_t most) {
    fail(Errc::busy, r.address() + " has " + std::to_string(most) + " " + what +
                         " already; close some, or split the channel");
}

[[noreturn]] inline void no_senders(const Registry& r) {
    no_room(r, "senders (or lanes of former ones that are unread or still viewed)", kMaxLanes);
}

/// Leaves for good: gives the record back, and as the last one removes the files. Returns messages nobody read.
inline uint64_t leave(Registry& r) {
    uint64_t unread = 0;
    try {
        r.reap();
        uint64_t left = 0;
        bool others = false;
        for (uint64_t i = 0; i < kMaxMembers && !others; ++i) others = i != r.id && r.living(i);
        if (!others) left = r.unread();
        r.gone();
        r.graph().clear();
        const bool replaced = state_in<ChannelState>(r.file.header().state.load(seq_cst)) == ChannelState::closed;
        if (r.close_if_empty() || (replaced && !r.anybody_living())) {
            unread = left;
            r.file.storage().remove_all();
        }
    } catch (const Error&) {
        r.gone();  // somebody tampers with the files: leave all the same
    }
    return unread;
}

inline std::string holder_text(const Registry& r, uint64_t word) {
    for (uint64_t i = 0; i < kMaxMembers; ++i)
        if (r.file.member(i).state.load(seq_cst) == word) return "(" + r.describe(i) + ")";
    return "(just leaving)";
}

/// A channel without a name, open and without members: whoever has the descriptor may open ends of it.
inline sys::Fd make_anonymous(const ChannelSpec& spec) {
    const Anonymous names;
    const ChannelFile file = ChannelFile::make(names, "", spec, Anonymous::kGeneration);
    file.header().state.store(stated(0, ChannelState::open), seq_cst);
    return sys::reopen(file.fd(), true);
}

/// Joins or makes a channel as a sender. `spec` is empty in its schema to take what the channel has.
inline std::unique_ptr<Sender> open_sender(const NamesPtr& names, const std::string& name, const ChannelSpec& spec,
                                           const SenderOptions& options, const std::string& program) {
    check_name(name);
    for (uint64_t attempt = 0;; ++attempt) {
        std::optional<ChannelFile> found = find_channel(names, name);
        const bool make = !found;
        if (make) {
            const uint64_t generation = sys::wall_ns() ^ static_cast<uint64_t>(::getpid()) << 40;
            found = ChannelFile::make(*names, name, spec, generation);
        }
        Registry r(std::move(*found), program);
        if (!make) {
            if (const std::string what = differs(r.file, spec); !what.empty()) {
                Atomic64& state = r.file.header().state;
                uint64_t w = state.load(seq_cst);  // before the scan: a joiner in between makes the CAS fail
                if (r.any_sender_living() || r.file.storage().lasting()) fail(Errc::mismatch, what);
                if (state_in<ChannelState>(w) == ChannelState::open &&  // a sender with other types replaces it
                    state.compare_exchange_strong(w, stated(count_in(w), ChannelState::closed), seq_cst)) {
                    if (!r.anybody_living()) r.file.storage().remove_all();
                    r.wake_everybody();
                }
                continue;
            }
            r.reap();
        }
        if (!r.enlist(kMaxReceivers, kMaxMembers, 0)) no_senders(r);
        if (one_sender(r.file.shape.pattern) && !r.hold(r.file.header().sender_holder)) {
            const std::string who = holder_text(r, r.file.header().sender_holder.load(seq_cst));
            leave(r);  // the holder may have gone meanwhile and left the closing to us
            fail(Errc::busy, r.address() + " allows one sender and has one " + who +
                                 "; open the channel with pattern=\"mpsc\" or \"mpmc\" for several");
        }
        bool in;
        if (make) {
            r.file.header().state.store(stated(1, ChannelState::proposed), seq_cst);
            in = r.file.publish(*names, name);
            if (in && !win_proposal(names, name, r)) {
                r.file.storage().remove_all();
                in = false;
            }
        } else {
            in = r.count_in_channel();
        }
        if (!in) {  // closed or made by another meanwhile: look again
            r.let_go_of(r.file.header().sender_holder);
            r.gone();
            ::usleep(static_cast<useconds_t>((sys::now_ns() ^ static_cast<uint64_t>(::getpid())) % (50 * (attempt + 1))));
            continue;
        }
        auto sender = std::make_unique<Sender>(std::move(r), options.wait);
        Registry& mine = sender->registry;
        try {
            mine.bury_dead();
            sender->begin(options);
        } catch (const Error&) {
            mine.let_go_of(mine.file.header().sender_holder);
            leave(mine);
            throw;
        }
        if (make) ring_waiting(*names, name);
        return sender;
    }
}

/// A stage that is there, or one to be added.
struct StagePlace {
    std::string name;  // "": the only one
    const Graph::Wanted* wanted = nullptr;
    StagePlace(std::string stage, const Graph::Wanted* added = nullptr) : name(std::move(stage)), wanted(added) {}
    StagePlace(const char* stage) : name(stage) {}
};

/// Finds the stage, or adds it, for a registered member; without one when others came between: look again.
inline Graph::Found find_stage(const Registry& r, const StagePlace& place) {
    const Graph graph = r.graph();
    if (place.name.empty() && !place.wanted && r.file.shape.stage_count == 1) return {0, 0};
    const Graph::Found found = graph.find(place.name);
    if (!place.wanted) {
        if (found) return found;
        if (graph.names().empty()) fail(Errc::invalid, r.address() + " was opened with stages=[]: it has no stage to be a member of");
        fail(Errc::invalid, r.address() + (place.name.empty() ? " has several stages" : " has no stage '" + place.name + "'") +
                                "; say stage= one of " + graph.names());
    }
    if (found && !graph.is_added(found.stage))
        fail(Errc::invalid, r.address() + " was opened with the stage '" + place.name + "'; leave new_stage= out to be a member of it");
    if (found) {
        const StageRecord& s = r.file.stage(found.stage);
        const bool elsewhere = !place.wanted->at_the_end && graph.resolve(*place.wanted) != s.after.load(relaxed);
        if (elsewhere || (s.mutates.load(relaxed) != 0) != place.wanted->mutates ||
            (s.redelivers.load(relaxed) != 0) != place.wanted->redelivers)
            fail(Errc::mismatch, "stage '" + place.name + "' of " + r.address() + " was added with another after=, mutate= or "
                                 "on_crash=; repeat these, or leave new_stage= out");
        return found;
    }
    return graph.add(*place.wanted, r.id);
}

/// A registered member did not become one of its stage. Others may have counted on it, so it leaves like one.
inline void withdraw(Registry& r) {
    r.leaving();
    if (r.graph().close_if_deserted(r.me().stage.load(seq_cst))) r.wake_everybody();
    leave(r);
}

/// Makes a registered member one of its stage; false when the stage was closed meanwhile: look again.
inline bool join_stage(Registry& r, const StagePlace& place, Graph::Found& found) {
    found = find_stage(r, place);
    if (!found) return false;
    StageRecord& s = r.file.stage(found.stage);
    const bool first = r.me().stage.load(seq_cst) == found.stage;  // it was added for us
    r.me().stage.store(found.stage, seq_cst);
    if (one_member(r.file.shape.pattern) && !r.hold(s.holder))
        fail(Errc::busy, "stage '" + load_name(s.name) + "' of " + r.address() + " has a member " +
                             holder_text(r, s.holder.load(seq_cst)) +
                             "; to share its messages open the channel with pattern=\"mpmc\" (or \"spmc\"), to see all of "
                             "them use psyne.tap(), or a stage of your own with new_stage=True");
    if (first || found.generation == 0 || r.graph().count_in(found.stage, found.generation)) return true;
    r.let_go_of(s.holder);
    return false;
}

/// Joins a channel as a member of a stage; null when there is no channel.
inline std::unique_ptr<Receiver> open_receiver(const NamesPtr& names, const std::string& name, const StagePlace& place,
                                               Spinner::Mode wait, const std::string& program) {
    check_name(name);
    for (;;) {
        std::optional<ChannelFile> found_file = find_channel(names, name);
        if (!found_file) return nullptr;
        Registry r(std::move(*found_file), program);
        if (!place.wanted) find_stage(r, place);  // an unknown name disturbs nobody
        if (!r.enlist(0, kMaxReceivers, kTapStage)) no_room(r, "receivers", kMaxReceivers);
        Graph::Found stage;
        try {
            if (!r.count_in_channel()) {
                r.gone();
                continue;
            }
            r.bury_dead();
            if (!join_stage(r, place, stage)) {
                withdraw(r);
                continue;
            }
        } catch (const Error&) {
            withdraw(r);
            throw;
        }
        r.wake_all(r.file.header().senders_idle, kMaxReceivers);  // they admit a stage that was added
        auto receiver = std::make_unique<Receiver>(std::move(r), stage.stage, stage.generation, wait);
        try {
            receiver->refresh();
        } catch (const Error&) {
            receiver->close();
            leave(receiver->registry);
            throw;
        }
        return receiver;
    }
}

/// Joins a channel to look on; null when there is no channel.
inline std::unique_ptr<Tap> open_tap(const NamesPtr& names, const std::string& name, const TapOptions& options,
                                     const std::string& program) {
    check_name(name);
    for (;;) {
        std::optional<ChannelFile> found = find_channel(names, name);
        if (!found) return nullptr;
        Registry r(std::move(*found), program);
        if (!r.enlist(0, kMaxReceivers, kTapStage)) no_room(r, "receivers and taps", kMaxReceivers);
        if (!r.count_in_channel()) {
            r.gone();
            continue;
        }
        auto tap = std::make_unique<Tap>(std::move(r), options);
        try {
            tap->registry.bury_dead();
            tap->begin();
        } catch (const Error&) {
            tap->close();
            leave(tap->registry);
            throw;
        }
        return tap;
    }
}

}  // namespace psyne
