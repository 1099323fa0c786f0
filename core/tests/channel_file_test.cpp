#include "support.hpp"

using namespace psyne;
using namespace psyne::test;

namespace {

ChannelSpec two_stages() {
    return {"the schema", 64, Pattern::spmc, {{"rectify", 0, true, true}, {"infer", 1}, {"draw", 2}}};
}
ChannelFile publish(const Home& home, uint64_t generation, const std::string& name = "test") {
    ChannelFile c = ChannelFile::make(*home.directory, name, two_stages(), generation);
    CHECK(c.publish(*home.directory, name));
    return c;
}

}  // namespace

TESTS(channel_file_test) {
    return check::run({
        {"a channel file says the same to whoever opens it",
         [] {
             const Home home;
             const ChannelFile made = publish(home, 5);
             const ChannelFile seen = ChannelFile::open(*home.directory, "test", 5);
             CHECK(static_cast<bool>(seen));
             CHECK_EQ(seen.schema(), std::string("the schema"));
             CHECK_EQ(seen.shape.payload_bytes, 64u);
             CHECK_EQ(seen.shape.pattern, Pattern::spmc);
             CHECK_EQ(seen.shape.stage_count, 3u);
             CHECK_EQ(load_name(seen.stage(1).name), std::string("infer"));
             CHECK_EQ(seen.stage(0).mutates, 1u);
             CHECK_EQ(seen.stage(0).redelivers, 1u);
             CHECK_EQ(seen.stage(1).after, 1u);
             CHECK_EQ(seen.stage(2).after, 2u);
             CHECK_EQ(seen.stage(2).ancestors, 3u);  // rectify too
             CHECK_EQ(state_in<ChannelState>(seen.header().state.load(seq_cst)), ChannelState::proposed);
         }},
        {"nobody sees a file before it is whole",
         [] {
             const Home home;
             const ChannelFile made = ChannelFile::make(*home.directory, "test", two_stages(), 1);
             CHECK(home.files().empty());
         }},
        {"of two files with one name the second is refused",
         [] {
             const Home home;
             const ChannelFile first = publish(home, 5);
             const ChannelFile second = ChannelFile::make(*home.directory, "test", two_stages(), 5);
             CHECK(!second.publish(*home.directory, "test"));
         }},
        {"generations are found by name, in order, and no other channel's",
         [] {
             const Home home;
             const ChannelFile c = publish(home, 300), a = publish(home, 2), b = publish(home, 0xfedcba9876543210);
             const ChannelFile other = publish(home, 7, "test2"), dotted = publish(home, 8, "test.2");
             std::ofstream(home.path + "/test.000000000000000g.channel") << "x";
             std::ofstream(home.path + "/test.0000000000000003.slab000") << "x";
             const std::vector<uint64_t> want{2, 300, 0xfedcba9876543210};
             CHECK(home.directory->generations("test") == want);
             CHECK(home.directory->generations("tes").empty());
             CHECK_EQ(home.directory->generations("test.2").size(), 1u);
         }},
        {"a generation is removed with all its files and no others",
         [] {
             const Home home;
             const ChannelFile a = publish(home, 1), b = publish(home, 2);
             const Slab slab = Slab::create(*home.directory->storage("test", 1), {0, 3, 0, 0}, {64, 64, 8, 1, false});
             CHECK_EQ(home.files().size(), 4u);
             home.directory->storage("test", 1)->remove_all();
             CHECK(home.files() == std::vector<std::string>{Directory::file_name("test", 2)});
             home.directory->storage("test", 1)->remove_all();  // once more does no harm
         }},
        {"a generation that is gone is an empty object",
         [] {
             const Home home;
             CHECK(!ChannelFile::open(*home.directory, "test", 9));
         }},
        {"a file of another layout version or another builder is refused with both versions",
         [] {
             const Home home;
             const ChannelFile made = publish(home, 5);
             made.header().shape.version = 99;
             CHECK_THROWS(incompatible, "layout version 99, this psyne has " + std::to_string(kLayoutVersion), ChannelFile::open(*home.directory, "test", 5));
             made.header().shape.version = kLayoutVersion;
             made.header().shape.abi ^= 1;
             CHECK_THROWS(incompatible, "abi", ChannelFile::open(*home.directory, "test", 5));
         }},
        {"foreign bytes under a channel's name are refused",
         [] {
             const Home home;
             const std::string path = home.path + "/" + Directory::file_name("test", 5);
             std::ofstream(path) << "hello";
             CHECK_EQ(::chmod(path.c_str(), 0600), 0);
             CHECK_THROWS(incompatible, "5 bytes short of a channel", ChannelFile::open(*home.directory, "test", 5));
             std::ofstream(path) << std::string(200000, 'x');
             CHECK_THROWS(incompatible, "not a channel", ChannelFile::open(*home.directory, "test", 5));
             CHECK_EQ(::chmod(path.c_str(), 0644), 0);
             CHECK_THROWS(incompatible, "private regular file", ChannelFile::open(*home.directory, "test", 5));
         }},
        {"sizes that would lead out of the file are refused",
         [] {
             const std::initializer_list<void (*)(ChannelShape&)> changes = {
                 [](ChannelShape& s) { s.file_bytes += 4096; },      [](ChannelShape& s) { s.generation += 1; },
                 [](ChannelShape& s) { s.schema_offset = 0; },       [](ChannelShape& s) { s.schema_offset = ~0ull; },
                 [](ChannelShape& s) { s.schema_bytes = ~0ull; },    [](ChannelShape& s) { s.schema_bytes = 8192; },
                 [](ChannelShape& s) { s.stage_count = 33; },        [](ChannelShape& s) { s.stage_count = ~0u; },
                 [](ChannelShape& s) { s.pattern = static_cast<Pattern>(4); }};
             for (const auto change : changes) {
                 const Home home;
                 const ChannelFile made = publish(home, 5);
                 change(made.header().shape);
                 CHECK_THROWS(incompatible, "sizes that do not fit", ChannelFile::open(*home.directory, "test", 5));
             }
         }},
        {"the directory must be the user's own",
         [] {
             const Home home;
             CHECK_EQ(::chmod(home.path.c_str(), 0755), 0);
             CHECK_THROWS(incompatible, "mode 0755", Directory{home.path});
             CHECK_EQ(::chmod(home.path.c_str(), 0700), 0);
             CHECK_EQ(::symlink(home.path.c_str(), (home.path + "/link").c_str()), 0);
             CHECK_THROWS(system, "cannot open", Directory{home.path + "/link"});
             CHECK_THROWS(not_found, "cannot make", Directory{home.path + "/a/b"});
             const Directory made{home.path + "/new"};
             struct stat st {};
             CHECK_EQ(::stat(made.path.c_str(), &st), 0);
             CHECK_EQ(st.st_mode & 0777, 0700u);
         }},
    });
}
