// What runs targets: `core_fuzz TARGET [--executions N] [--seed S] [--corpus DIR] [--keep] [--minimise] [FILE...]`.
// Files are run alone, to see again what one of them did. Not instrumented itself.
#include "fuzzer.hpp"

#include <sanitizer/common_interface_defs.h>
#include <malloc.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <new>
#include <set>

#include "channels.hpp"
#include "mutate.hpp"

namespace {

// ---- coverage -------------------------------------------------------------------------------------------------------

constexpr size_t kEdges = 64 * 1024;
uint8_t hits[kEdges];       // of an edge in this run, up to 255
uint16_t touched[kEdges];   // edges that have hits
size_t touched_count = 0;
uint32_t previous = 0;      // where the run came from
uint64_t steps = 0;         // of this run, blocks that it went through
bool counting = false;
uint8_t seen[kEdges];       // a bit for each number of hits that was ever seen, roughly

}  // namespace

/// g++ calls it at each basic block of a target.
extern "C" __attribute__((no_sanitize("address", "undefined"))) void __sanitizer_cov_trace_pc() {
    ++steps;
    if (!counting) return;
    const auto pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
    const auto block = static_cast<uint32_t>(pc * 0x9e3779b97f4a7c15 >> 48);
    const auto edge = static_cast<uint16_t>(block ^ previous);
    previous = block >> 1;
    if (hits[edge] == 0) touched[touched_count++] = edge;
    hits[edge] = static_cast<uint8_t>(hits[edge] + (hits[edge] != 255));
}

// ---- memory ---------------------------------------------------------------------------------------------------------

namespace {
uint64_t live = 0, peak = 0;
}

void* operator new(size_t bytes) {
    void* p = std::malloc(bytes);
    if (!p) throw std::bad_alloc();
    live += ::malloc_usable_size(p);
    if (live > peak) peak = live;
    return p;
}
void operator delete(void* p) noexcept {
    if (p) live -= ::malloc_usable_size(p);
    std::free(p);
}
void operator delete(void* p, size_t) noexcept { operator delete(p); }

/// Where memory was allocated is not worth the time of so many runs.
extern "C" const char* __asan_default_options() { return "malloc_context_size=2:quarantine_size_mb=4"; }

namespace fuzz {

uint64_t memory_live() { return live; }
uint64_t& memory_peak() { return peak; }

namespace {

uint8_t bucket(uint8_t n) noexcept {
    if (n <= 3) return static_cast<uint8_t>(1u << (n - 1));
    return n < 8 ? 8 : n < 16 ? 16 : n < 32 ? 32 : n < 128 ? 64 : 128;
}

// ---- the input that is running --------------------------------------------------------------------------------------

constexpr time_t kWork = 20, kPatience = 600;  // seconds of processor time for 256 runs; and in all, should it sleep
Input running;
const char* running_target = "";

std::string name_of(Input input) {
    uint64_t h = 0xcbf29ce484222325;
    for (const std::byte b : input) h = (h ^ std::to_integer<uint64_t>(b)) * 0x100000001b3;
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(h));
    return text;
}

void write_file(const std::filesystem::path& path, Input bytes) {
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

void keep_running() {
    counting = false;
    const std::string file = "wrong-" + std::string(running_target) + "-" + name_of(running);
    write_file(file, running);
    std::fprintf(stderr, "the input is in %s\n", file.c_str());
}

void limit(time_t work, time_t patience) {
    const itimerval of_work{{}, {work, 0}}, in_all{{}, {patience, 0}};
    ::setitimer(ITIMER_PROF, &of_work, nullptr);
    ::setitimer(ITIMER_REAL, &in_all, nullptr);
}

void on_signal(int number) {
    std::fprintf(stderr, "%s\n", number == SIGABRT ? "it aborted" : "it hangs");
    keep_running();
    ::_exit(1);
}

// ---- running --------------------------------------------------------------------------------------------------------

class Fuzzer {
public:
    Fuzzer(std::string name, const Target& target, uint64_t seed) : name_(std::move(name)), target_(target), random_(seed), mutator_(random_) {}

    void load(const std::filesystem::path& folder) {
        std::vector<std::filesystem::path> files;
        if (std::filesystem::is_directory(folder))
            for (const auto& e : std::filesystem::directory_iterator(folder)) files.push_back(e.path());
        std::sort(files.begin(), files.end());
        for (const Bytes& b : target_.seeds()) add(b);
        for (const auto& f : files) add(read(f));
    }

    static Bytes read(const std::filesystem::path& file) {
        std::ifstream in(file, std::ios::binary);
        const std::string text((std::istreambuf_iterator<char>(in)), {});
        Bytes b(text.size());
        std::memcpy(b.data(), text.data(), text.size());
        return b;
    }

    /// Did it take an edge that none took before, or one more often?
    bool run(const Bytes& input) {
        execute(input);
        bool fresh = false;
        for (size_t i = 0; i < touched_count; ++i) {
            const uint16_t e = touched[i];
            const uint8_t b = bucket(hits[e]);
            if (seen[e] == 0) ++edges_;
            fresh = fresh || (seen[e] & b) == 0;
            seen[e] = static_cast<uint8_t>(seen[e] | b);
        }
        return fresh;
    }

    void fuzz(uint64_t executions, const std::filesystem::path& keep) {
        const auto begin = std::chrono::steady_clock::now();
        const auto report = [&](uint64_t n) {
            const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
            std::printf("%s: %llu executions, %.0f a second, %zu edges, %zu inputs\n", name_.c_str(), static_cast<unsigned long long>(n),
                        static_cast<double>(n) / took.count(), edges_, inputs_.size());
            std::fflush(stdout);
        };
        Bytes input;
        for (uint64_t n = 0; n < executions; ++n) {
            if (n % 256 == 0) limit(kWork, kPatience);
            if (n != 0 && n % 1'000'000 == 0) report(n);
            input = choose();
            mutator_.mutate(input, choose());
            if (!run(input)) continue;
            inputs_.push_back({input, steps});
            if (!keep.empty()) write_file(keep / name_of(input), input);
        }
        limit(0, 0);
        report(executions);
    }

    /// Leaves in the folder what is needed for all edges, as short as it can be made: at most `most` files.
    void minimise(const std::filesystem::path& folder, size_t most) {
        std::vector<std::pair<Bytes, std::set<uint32_t>>> all;
        for (const Kept& k : inputs_) all.emplace_back(k.input, traits(k.input));
        std::set<uint32_t> covered;
        std::vector<Bytes> kept;
        while (kept.size() < most) {
            size_t best = all.size();
            double worth = 0;
            for (size_t i = 0; i < all.size(); ++i) {
                const auto& t = all[i].second;
                const auto fresh = std::count_if(t.begin(), t.end(), [&](uint32_t v) { return !covered.contains(v); });
                const double w = static_cast<double>(fresh) / (64 + static_cast<double>(all[i].first.size()));
                if (w > worth) worth = w, best = i;
            }
            if (best == all.size()) break;
            std::set<uint32_t> fresh;
            for (const uint32_t v : all[best].second)
                if (!covered.contains(v)) fresh.insert(v);
            kept.push_back(trim(all[best].first, fresh));
            covered.insert(all[best].second.begin(), all[best].second.end());
            all.erase(all.begin() + static_cast<std::ptrdiff_t>(best));
        }
        std::filesystem::remove_all(folder);
        std::filesystem::create_directories(folder);
        size_t bytes = 0;
        for (const Bytes& b : kept) bytes += b.size(), write_file(folder / name_of(b), b);
        std::printf("%s: %zu of %zu inputs kept, %zu bytes\n", name_.c_str(), kept.size(), inputs_.size(), bytes);
    }

    void execute(const Bytes& input) {
        for (size_t i = 0; i < touched_count; ++i) hits[touched[i]] = 0;
        touched_count = previous = 0;
        steps = 0;
        running = input;
        counting = true;
        try {
            target_.run(input);
        } catch (const std::exception& e) {
            wrong(std::string("an exception got through: ") + e.what());
        }
        counting = false;
    }

private:
    std::string name_;
    Target target_;
    Random random_;
    Mutator mutator_;
    struct Kept {
        Bytes input;
        uint64_t steps;
    };
    std::vector<Kept> inputs_;
    size_t edges_ = 0;

    void add(const Bytes& input) {
        run(input);
        inputs_.push_back({input, steps});
    }

    /// Quick ones, and those that came last, more often.
    const Bytes& choose() {
        const size_t n = inputs_.size(), newest = std::min<size_t>(n, 64);
        const auto any = [&] { return random_.one_in(3) ? n - 1 - random_.below(newest) : random_.below(n); };
        const Kept &a = inputs_[any()], &b = inputs_[any()], &quick = a.steps <= b.steps ? a : b;
        if (random_.one_in(8)) return a.input;
        const Kept& c = inputs_[any()];
        return (c.steps < quick.steps ? c : quick).input;
    }

    /// Edges, and roughly how often.
    std::set<uint32_t> traits(const Bytes& input) {
        execute(input);
        std::set<uint32_t> found;
        for (size_t i = 0; i < touched_count; ++i) found.insert(uint32_t{touched[i]} << 8 | bucket(hits[touched[i]]));
        return found;
    }
    /// Without the pieces that its edges do not need.
    Bytes trim(Bytes input, const std::set<uint32_t>& needed) {
        for (size_t piece = std::bit_floor(std::max<size_t>(input.size() / 2, 1)); piece >= 4; piece /= 2)
            for (size_t at = kPrefix; at + piece <= input.size();) {
                Bytes shorter(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(at));
                shorter.insert(shorter.end(), input.begin() + static_cast<std::ptrdiff_t>(at + piece), input.end());
                const auto has = traits(shorter);
                if (std::includes(has.begin(), has.end(), needed.begin(), needed.end())) input = std::move(shorter);
                else at += piece;
            }
        return input;
    }
};

int usage() {
    std::fprintf(stderr, "usage: core_fuzz TARGET [--executions N] [--seed S] [--corpus DIR] [--keep] [--minimise] [FILE...]; targets:\n");
    for (const auto& [name, target] : targets()) std::fprintf(stderr, "  %s\n", name.c_str());
    return 2;
}

int run_all(int count, char** words) {
    const auto found = count < 2 ? targets().end() : targets().find(words[1]);
    if (found == targets().end()) return usage();
    running_target = words[1];
    uint64_t executions = 0, seed = 1;
    std::filesystem::path corpus;
    bool keep = false, minimise = false;
    std::vector<std::string> files;
    for (int i = 2; i < count; ++i) {
        const std::string word = words[i];
        const bool last = i + 1 == count;
        if (word == "--keep") keep = true;
        else if (word == "--minimise") minimise = true;
        else if (word == "--executions" && !last) executions = std::strtoull(words[++i], nullptr, 10);
        else if (word == "--seed" && !last) seed = std::strtoull(words[++i], nullptr, 10);
        else if (word == "--corpus" && !last) corpus = words[++i];
        else if (word.starts_with("--")) return usage();
        else files.push_back(word);
    }
    if (corpus.empty() && (keep || minimise)) return usage();
    Fuzzer fuzzer(words[1], found->second, seed);
    for (const std::string& f : files) fuzzer.run(Fuzzer::read(f));
    if (!files.empty()) return 0;
    fuzzer.load(corpus);
    if (keep) std::filesystem::create_directories(corpus);
    fuzzer.fuzz(executions, keep ? corpus : std::filesystem::path());
    if (minimise) fuzzer.minimise(corpus, 200);
    return 0;
}

}  // namespace

void stop_counting() { counting = false; }

void wrong(const std::string& what) {
    counting = false;
    std::fprintf(stderr, "wrong: %s\n", what.c_str());
    std::abort();
}

}  // namespace fuzz

int main(int count, char** words) {
    __sanitizer_set_death_callback(fuzz::keep_running);
    ::signal(SIGABRT, fuzz::on_signal);
    ::signal(SIGALRM, fuzz::on_signal);
    ::signal(SIGPROF, fuzz::on_signal);
    return fuzz::run_all(count, words);
}
