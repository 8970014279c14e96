// octuor._native: checks arguments, releases the GIL, calls the kernels. No arithmetic here.
//
// A wrong dtype or layout is a TypeError from nanobind, for every array argument is .noconvert(); a wrong shape is
// octuor's ShapeError, a number out of range its RequestError.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "checks.h"
#include "dispatch.h"
#include "matrix.h"
#include "probe.h"
#include "rope_table.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace octuor {
namespace {

// The changes of several adapters to one matrix [out, in]; a slot without is None. Keeps its arrays alive.
class LowRank {
 public:
    LowRank(std::vector<std::optional<std::pair<Input<float, 2>, Input<float, 2>>>> pairs, int64_t out, int64_t in)
        : out(out), in(in), pairs_(std::move(pairs)) {
        for (const auto& pair : pairs_) {
            changes.push_back({});
            if (!pair) continue;
            const int64_t rank = int64_t(pair->first.shape(0));
            expect_shape("a", pair->first, {rank, in});
            expect_shape("b", pair->second, {rank, out});
            changes.back() = {pair->first.data(), pair->second.data(), rank};
        }
    }

    const int64_t out, in;
    std::vector<LowRankChange> changes;

 private:
    std::vector<std::optional<std::pair<Input<float, 2>, Input<float, 2>>>> pairs_;
};

class Context {
 public:
    Context(const std::string& isa, int n_threads, const std::vector<int>& cpus)
    try : kernels_(find(isa)), pool_(checked(n_threads), cpus) {
        if (pool_.refused_cpu() >= 0)
            fail("BackendError", "pin: expected CPUs this process may run on, found " +
                                     std::to_string(pool_.refused_cpu()) + "; see `taskset -p` or the container's");
    } catch (const std::system_error& error) {
        fail("BackendError", "threads: expected the system to start " + std::to_string(n_threads) + ", found " +
                                 error.what() + "; ask for fewer or raise `ulimit -u`");
    }

    int n_threads() const { return pool_.n_threads(); }

    void embed(const Leaf& weight, Input<int32_t, 1> tokens, Output<float, 2> out) {
        const int64_t n = int64_t(tokens.shape(0));
        expect_shape("out", out, {n, weight.matrix.in});
        expect_range("token ids", tokens.data(), n, weight.matrix.out);
        call([&](Team*) { kernels_->embed(&weight.matrix, tokens.data(), n, out.data()); });
    }

    void rms_norm(Input<float, 2> x, Input<float, 1> weight, float eps, Output<float, 2> out) {
        const int64_t n = int64_t(x.shape(0)), dim = int64_t(x.shape(1));
        expect_shape("norm weight", weight, {dim});
        expect_shape("out", out, {n, dim});
        call([&](Team* team) { kernels_->rms_norm(team, x.data(), weight.data(), n, dim, eps, out.data()); });
    }

    void linear(Input<float, 2> x, const Leaf& weight, Output<float, 2> out) {
        const int64_t n = int64_t(x.shape(0));
        expect_shape("x", x, {n, weight.matrix.in});
        expect_shape("out", out, {n, weight.matrix.out});
        if (n) call([&](Team* team) { kernels_->linear(team, x.data(), n, &weight.matrix, out.data()); });
    }

    void rope(Input<float, 3> x, Input<int32_t, 1> positions, double theta, Output<float, 3> out) {
        const int64_t n = int64_t(x.shape(0)), heads = int64_t(x.shape(1)), dim = int64_t(x.shape(2));
        if (dim % 2) fail("ShapeError", "rope: expected an even head_dim, found " + std::to_string(dim));
        expect_shape("positions", positions, {n});
        expect_shape("out", out, {n, heads, dim});
        call([&](Team*) {
            rope_.prepare(positions.data(), n, dim, theta);
            kernels_->rope(x.data(), rope_.cos.data(), rope_.sin.data(), n, heads, dim, out.data());
        });
    }

    void attention(Input<float, 3> q, Input<float, 3> k, Input<float, 3> v, Input<int32_t, 1> positions,
                   Input<int32_t, 1> starts, std::optional<int64_t> window, std::optional<AnyOutput> keys,
                   std::optional<AnyOutput> values, std::optional<Input<int32_t, 2>> table, Output<float, 3> out) {
        AttentionCall a = {};
        a.q = q.data(), a.k = k.data(), a.v = v.data(), a.out = out.data();
        a.n_tokens = int64_t(q.shape(0)), a.n_heads = int64_t(q.shape(1)), a.head_dim = int64_t(q.shape(2));
        a.n_kv_heads = int64_t(k.shape(1));
        a.positions = positions.data(), a.starts = starts.data();
        if (starts.shape(0) < 1) fail("ShapeError", "starts: expected [B + 1], found [0]");
        a.n_sequences = int64_t(starts.shape(0)) - 1;
        a.window = window.value_or(0);
        expect_shape("k", k, {a.n_tokens, a.n_kv_heads, a.head_dim});
        expect_shape("v", v, {a.n_tokens, a.n_kv_heads, a.head_dim});
        expect_shape("out", out, {a.n_tokens, a.n_heads, a.head_dim});
        expect_shape("positions", positions, {a.n_tokens});
        if (a.n_kv_heads < 1 || a.n_heads % a.n_kv_heads || a.head_dim < 1)
            fail("ShapeError", "q: expected heads in a multiple of k's " + std::to_string(a.n_kv_heads) + ", found " +
                                   std::to_string(a.n_heads));
        if (window && *window < 1)
            fail("RequestError", "window: expected at least 1, found " + std::to_string(*window));
        expect_starts(a);
        if (keys) {
            if (!values || !table) fail("ShapeError", "cache: expected keys, values and table together");
            use_cache(a, *keys, *values, *table);
        } else {
            for (int64_t b = 0; b < a.n_sequences; b++)
                expect_range("positions of a whole sequence", a.positions + a.starts[b], a.starts[b + 1] - a.starts[b],
                             a.starts[b + 1] - a.starts[b]);
        }
        if (a.n_tokens) call([&](Team* team) { kernels_->attention(team, &a); });
    }

    void route(Input<float, 2> x, const Leaf& router, Output<int32_t, 2> experts, Output<float, 2> weights,
               Output<float, 2> logits) {
        const int64_t n = int64_t(x.shape(0)), n_chosen = int64_t(experts.shape(1)), n_experts = router.matrix.out;
        if (n_chosen < 1 || n_chosen > n_experts)
            fail("RequestError",
                 "experts a token: expected 1.." + std::to_string(n_experts) + ", found " + std::to_string(n_chosen));
        expect_shape("x", x, {n, router.matrix.in});
        expect_shape("experts", experts, {n, n_chosen});
        expect_shape("weights", weights, {n, n_chosen});
        expect_shape("logits", logits, {n, n_experts});
        const RouteCall r = {logits.data(), n, n_experts, n_chosen, experts.data(), weights.data()};
        if (!n) return;
        call([&](Team* team) {
            kernels_->linear(team, x.data(), n, &router.matrix, logits.data());
            kernels_->route(&r);
        });
    }

    void moe(Input<float, 2> x, Input<int32_t, 2> experts, Input<float, 2> weights, nb::sequence all,
             Output<float, 2> out) {
        MoeCall m = moe_call(experts, int64_t(x.shape(1)), int64_t(nb::len(all)));
        m.x = x.data(), m.out = out.data(), m.weights = weights.data();
        expect_shape("x", x, {m.n_tokens, m.dim});
        expect_shape("weights", weights, {m.n_tokens, m.n_chosen});
        expect_shape("out", out, {m.n_tokens, m.dim});
        run_moe(m, all, std::vector<bool>(size_t(m.n_experts), true));
    }

    void moe_part(Input<float, 2> x, Input<int32_t, 2> experts, nb::sequence all, Input<int32_t, 1> held,
                  Output<float, 3> partial) {
        MoeCall m = moe_call(experts, int64_t(x.shape(1)), int64_t(nb::len(all)));
        const std::vector<float> weights(size_t(m.n_tokens * m.n_chosen));  // not used: what experts give is kept apart
        m.x = x.data(), m.partial = partial.data(), m.weights = weights.data();
        expect_shape("x", x, {m.n_tokens, m.dim});
        expect_shape("partial", partial, {m.n_tokens, m.n_chosen, m.dim});
        expect_range("held experts", held.data(), int64_t(held.shape(0)), m.n_experts);
        std::vector<bool> in_part(size_t(m.n_experts), false);
        for (size_t i = 0; i < held.shape(0); i++) in_part[size_t(held.data()[i])] = true;
        run_moe(m, all, in_part);
    }

    void moe_sum(Input<int32_t, 2> experts, Input<float, 2> weights, Input<float, 3> partial, Output<float, 2> out) {
        MoeCall m = moe_call(experts, int64_t(out.shape(1)), INT32_MAX);
        m.weights = weights.data(), m.partial = const_cast<float*>(partial.data()), m.out = out.data();
        expect_shape("weights", weights, {m.n_tokens, m.n_chosen});
        expect_shape("partial", partial, {m.n_tokens, m.n_chosen, m.dim});
        expect_shape("out", out, {m.n_tokens, m.dim});
        if (m.n_tokens) call([&](Team* team) { kernels_->moe_sum(team, &m); });
    }

    void low_rank(Input<float, 2> x, const LowRank& change, Input<int32_t, 1> slots, Output<float, 2> out) {
        const int64_t n = int64_t(x.shape(0));
        expect_shape("x", x, {n, change.in});
        expect_shape("slots", slots, {n});
        expect_shape("out", out, {n, change.out});
        for (int64_t t = 0; t < n; t++)
            if (slots.data()[t] >= int64_t(change.changes.size()))
                fail("RequestError", "slots: expected less than " + std::to_string(change.changes.size()) + ", found " +
                                         std::to_string(slots.data()[t]));
        const LowRankCall c = {x.data(),    out.data(),   n, change.in, change.out, slots.data(), change.changes.data(),
                               int64_t(change.changes.size())};
        if (n) call([&](Team* team) { kernels_->low_rank(team, &c); });
    }

    void swiglu(Input<float, 2> gate, Input<float, 2> up, Output<float, 2> out) {
        const int64_t n = int64_t(gate.shape(0)), f = int64_t(gate.shape(1));
        expect_shape("up", up, {n, f});
        expect_shape("out", out, {n, f});
        if (n && f) call([&](Team* team) { kernels_->swiglu(team, gate.data(), up.data(), n * f, out.data()); });
    }

    int64_t quantize(const Leaf& from, const std::string& to, std::optional<Input<float, 1>> importance, bool thorough,
                     Output<uint8_t, 3> out) {
        const Format format = find_format(to);
        if (FORMATS[int(from.matrix.format)].tile_bytes || !FORMATS[int(format)].tile_bytes)
            fail("FormatError", "quantize: expected f32, f16 or bf16 to a tiled format, found " +
                                    std::string(FORMATS[int(from.matrix.format)].name) + " to " + to);
        expect_storage(out, format, from.matrix.out, from.matrix.in);
        if (importance) expect_shape("quantize importance", *importance, {from.matrix.in});
        const float* counts = importance ? importance->data() : nullptr;
        int64_t bad = -1;
        call([&](Team* team) { bad = kernels_->quantize(team, &from.matrix, format, counts, thorough, out.data()); });
        return bad;
    }

    void dequantize(const Leaf& weight, Output<float, 2> out) {
        expect_shape("out", out, {weight.matrix.out, weight.matrix.in});
        call([&](Team* team) { kernels_->dequantize(team, &weight.matrix, Format::f32, out.data()); });
    }

    void dequantize_bf16(const Leaf& weight, Output<uint16_t, 2> out) {
        expect_shape("out", out, {weight.matrix.out, weight.matrix.in});
        call([&](Team* team) { kernels_->dequantize(team, &weight.matrix, Format::bf16, out.data()); });
    }

    void round_block(Input<float, 2> targets, Input<float, 2> weights, Input<float, 2> spread, Input<float, 1> costs,
                     const std::string& to, Output<uint8_t, 3> out, Output<float, 2> errors) {
        const Format format = find_format(to);
        if (!FORMATS[int(format)].tile_bytes) fail("FormatError", "round_block: expected a tiled format, found " + to);
        const int64_t n_rows = int64_t(targets.shape(0)), inputs = 256;
        expect_shape("round_block targets", targets, {n_rows, inputs});
        expect_shape("round_block weights", weights, {n_rows, inputs});
        expect_shape("round_block errors", errors, {n_rows, inputs});
        expect_shape("round_block spread", spread, {inputs, inputs});
        expect_shape("round_block costs", costs, {inputs});
        expect_storage(out, format, n_rows, inputs);
        const RoundCall c = {targets.data(), weights.data(), n_rows,     spread.data(),
                             costs.data(),   format,         out.data(), errors.data()};
        call([&](Team* team) { kernels_->round_block(team, &c); });
    }

    double read_bandwidth(int64_t n_bytes) {
        double rate = 0;
        call([&](Team* team) { rate = octuor::read_bandwidth(team, size_t(n_bytes)); });
        return rate;
    }

    // Kind of number, instruction and 1e9 operations a second, of those that this machine has.
    std::vector<std::tuple<std::string, std::string, double>> peaks() {
        const std::pair<const char*, const Peak*> all[] = {
            {"int8", kernels_->int8_peak}, {"f32", kernels_->f32_peak}, {"bf16", kernels_->bf16_peak}};
        const std::vector<std::string> features = cpu_features();
        std::vector<std::tuple<std::string, std::string, double>> found;
        for (const auto& [kind, peak] : all) {
            if (!peak->instruction) continue;
            if (peak->feature && std::find(features.begin(), features.end(), peak->feature) == features.end()) continue;
            double rate = 0;
            call([&, peak = peak](Team* team) { rate = peak_rate(team, *peak); });
            found.emplace_back(kind, peak->instruction, rate);
        }
        return found;
    }

    double kernel_seconds() const { return kernel_s_; }

 private:
    static int checked(int n_threads) {
        if (n_threads < 1 || n_threads > 1024)
            fail("BackendError", "threads: expected 1..1024, found " + std::to_string(n_threads));
        return n_threads;
    }

    static const Kernels* find(const std::string& isa) {
        std::string here;
        for (const Implementation& i : implementations()) {
            if (!i.supported()) continue;
            if (isa == i.name) return i.kernels;
            here += (here.empty() ? "" : ", ") + std::string(i.name);
        }
        fail("BackendError", "instruction set: this machine has " + here + "; found " + isa);
    }

    static void expect_starts(const AttentionCall& a) {
        int64_t before = 0;
        for (int64_t b = 0; b <= a.n_sequences; b++) {
            if (a.starts[b] < before || (b == 0 && a.starts[0] != 0) || a.starts[b] > a.n_tokens)
                fail("ShapeError", "starts: expected rising from 0 to " + std::to_string(a.n_tokens) + ", found " +
                                       std::to_string(a.starts[b]) + " at place " + std::to_string(b));
            before = a.starts[b];
        }
        if (before != a.n_tokens)
            fail("ShapeError",
                 "starts: expected to end at " + std::to_string(a.n_tokens) + ", found " + std::to_string(before));
    }

    static void use_cache(AttentionCall& a, const AnyOutput& keys, const AnyOutput& values, Input<int32_t, 2> table) {
        if (keys.ndim() != 4) fail("ShapeError", "cache: expected [n_pages, K, P, C], found " + text(shape_of(keys)));
        const int64_t n_pages = int64_t(keys.shape(0));
        a.page_size = int64_t(keys.shape(2));
        expect_shape("cached keys", keys, {n_pages, a.n_kv_heads, a.page_size, a.head_dim});
        expect_shape("cached values", values, {n_pages, a.n_kv_heads, a.page_size, a.head_dim});
        if (keys.dtype() != values.dtype() || (keys.dtype() != FORMATS[0].dtype && keys.dtype() != FORMATS[1].dtype))
            fail("ShapeError", "cache: expected keys and values in float32 or float16");
        a.cache_is_f16 = keys.dtype() == FORMATS[1].dtype;
        a.keys = keys.data(), a.values = values.data();
        a.table_width = int64_t(table.shape(1));
        a.table = table.data();
        expect_shape("page table", table, {a.n_sequences, a.table_width});
        for (int64_t b = 0; b < a.n_sequences; b++) {
            const int64_t n = a.starts[b + 1] - a.starts[b];
            if (!n) continue;
            const int32_t* positions = a.positions + a.starts[b];
            expect_range("positions", positions, n, a.table_width * a.page_size);
            int64_t first = positions[0], last = positions[0];
            for (int64_t t = 0; t < n; t++) {
                first = std::min<int64_t>(first, positions[t]);
                last = std::max<int64_t>(last, positions[t]);
            }
            first = a.window ? std::max<int64_t>(first - a.window + 1, 0) : 0;
            const int64_t page = first / a.page_size;  // entries before it are stale and never read
            expect_range("cache pages", a.table + b * a.table_width + page, last / a.page_size - page + 1, n_pages);
        }
    }

    static MoeCall moe_call(Input<int32_t, 2> experts, int64_t dim, int64_t n_experts) {
        MoeCall m = {};
        m.experts = experts.data(), m.n_tokens = int64_t(experts.shape(0)), m.n_chosen = int64_t(experts.shape(1));
        m.dim = dim, m.n_experts = n_experts;
        expect_range("experts", m.experts, m.n_tokens * m.n_chosen, n_experts);
        return m;
    }

    // Runs the experts that tokens have chosen and that are in this part; others are not asked for.
    void run_moe(MoeCall& m, const nb::sequence& all, const std::vector<bool>& in_part) {
        if (!m.n_tokens) return;
        std::vector<ExpertMatrices> matrices(size_t(m.n_experts), ExpertMatrices{});
        std::vector<nb::object> used;  // alive until the call is over: a streamed expert may have no other owner
        for (int64_t i = 0; i < m.n_tokens * m.n_chosen; i++) {
            ExpertMatrices& at = matrices[size_t(m.experts[i])];
            if (at.gate.data || !in_part[size_t(m.experts[i])]) continue;
            nb::object expert = all[size_t(m.experts[i])];
            at.gate = leaf(expert, "gate", used), at.up = leaf(expert, "up", used),
            at.down = leaf(expert, "down", used);
            if (!m.hidden_dim) m.hidden_dim = at.gate.out;
            expect_matrix("expert gate", at.gate, m.hidden_dim, m.dim);
            expect_matrix("expert up", at.up, m.hidden_dim, m.dim);
            expect_matrix("expert down", at.down, m.dim, m.hidden_dim);
        }
        m.matrices = matrices.data();
        call([&](Team* team) { kernels_->moe(team, &m); });
    }

    static Matrix leaf(const nb::object& expert, const char* part, std::vector<nb::object>& used) {
        used.push_back(expert.attr(part));
        const Leaf* found = nullptr;
        if (!nb::try_cast(used.back(), found) || !found)
            fail("ShapeError", std::string("expert ") + part + ": expected a matrix that NativeOps.put made");
        return found->matrix;
    }

    static void expect_matrix(const char* what, const Matrix& m, int64_t out, int64_t in) {
        if (m.out != out || m.in != in)
            fail("ShapeError", std::string(what) + ": expected " + text({out, in}) + ", found " + text({m.out, m.in}));
    }

    template <class F>
    void call(F f) {
        nb::gil_scoped_release released;
        std::lock_guard<std::mutex> held(pool_.mutex);
        const auto start = std::chrono::steady_clock::now();
        f(pool_.team());
        kernel_s_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }

    const Kernels* kernels_;
    Pool pool_;
    double kernel_s_ = 0;  // spent in kernels, of all calls
    RopeTable rope_;
};

}  // namespace
}  // namespace octuor

NB_MODULE(_native, m) {
    using namespace octuor;
    m.doc() = "Kernels of octuor.ops.native; see native/kernels.h.";
    nb::class_<Leaf>(m, "Matrix")
        .def(nb::init<AnyInput, const std::vector<int64_t>&, const std::string&>(), nb::arg("data").noconvert(),
             "shape"_a, "format"_a)
        .def(nb::init<Strided, const std::vector<int64_t>&, const std::string&, nb::dict, nb::dict>(),
             nb::arg("data").noconvert(), "shape"_a, "format"_a, "parts"_a, "numbers"_a)
        .def_prop_ro("shape", [](const Leaf& l) { return std::make_tuple(l.matrix.out, l.matrix.in); })
        .def_prop_ro("format", [](const Leaf& l) { return std::string(FORMATS[int(l.matrix.format)].name); });
    nb::class_<LowRank>(m, "LowRank")
        .def(nb::init<std::vector<std::optional<std::pair<Input<float, 2>, Input<float, 2>>>>, int64_t, int64_t>(),
             "pairs"_a, "out"_a, "inputs"_a);
    nb::class_<Context>(m, "Context")
        .def(nb::init<const std::string&, int, const std::vector<int>&>(), "isa"_a, "n_threads"_a,
             "cpus"_a = std::vector<int>())
        .def_prop_ro("n_threads", &Context::n_threads)
        .def("embed", &Context::embed, "weight"_a, nb::arg("tokens").noconvert(), nb::arg("out").noconvert())
        .def("rms_norm", &Context::rms_norm, nb::arg("x").noconvert(), nb::arg("weight").noconvert(), "eps"_a,
             nb::arg("out").noconvert())
        .def("linear", &Context::linear, nb::arg("x").noconvert(), "weight"_a, nb::arg("out").noconvert())
        .def("rope", &Context::rope, nb::arg("x").noconvert(), nb::arg("positions").noconvert(), "theta"_a,
             nb::arg("out").noconvert())
        .def("attention", &Context::attention, nb::arg("q").noconvert(), nb::arg("k").noconvert(),
             nb::arg("v").noconvert(), nb::arg("positions").noconvert(), nb::arg("starts").noconvert(),
             "window"_a.none(), nb::arg("keys").noconvert().none(), nb::arg("values").noconvert().none(),
             nb::arg("table").noconvert().none(), nb::arg("out").noconvert())
        .def("route", &Context::route, nb::arg("x").noconvert(), "router"_a, nb::arg("experts").noconvert(),
             nb::arg("weights").noconvert(), nb::arg("logits").noconvert())
        .def("moe", &Context::moe, nb::arg("x").noconvert(), nb::arg("experts").noconvert(),
             nb::arg("weights").noconvert(), "all_experts"_a, nb::arg("out").noconvert())
        .def("moe_part", &Context::moe_part, nb::arg("x").noconvert(), nb::arg("experts").noconvert(), "all_experts"_a,
             nb::arg("held").noconvert(), nb::arg("partial").noconvert())
        .def("moe_sum", &Context::moe_sum, nb::arg("experts").noconvert(), nb::arg("weights").noconvert(),
             nb::arg("partial").noconvert(), nb::arg("out").noconvert())
        .def("low_rank", &Context::low_rank, nb::arg("x").noconvert(), "change"_a, nb::arg("slots").noconvert(),
             nb::arg("out").noconvert())
        .def("swiglu", &Context::swiglu, nb::arg("gate").noconvert(), nb::arg("up").noconvert(),
             nb::arg("out").noconvert())
        .def("quantize", &Context::quantize, "matrix"_a, "to"_a, nb::arg("importance").noconvert().none(), "thorough"_a,
             nb::arg("out").noconvert())
        .def("dequantize", &Context::dequantize, "matrix"_a, nb::arg("out").noconvert())
        .def("dequantize_bf16", &Context::dequantize_bf16, "matrix"_a, nb::arg("out").noconvert())
        .def("round_block", &Context::round_block, nb::arg("targets").noconvert(), nb::arg("weights").noconvert(),
             nb::arg("spread").noconvert(), nb::arg("costs").noconvert(), "to"_a, nb::arg("out").noconvert(),
             nb::arg("errors").noconvert())
        .def("read_bandwidth", &Context::read_bandwidth, "n_bytes"_a)
        .def("peaks", &Context::peaks)
        .def_prop_ro("kernel_seconds", &Context::kernel_seconds);
    m.def("formats", format_names);
    m.def("implementations", [] {
        std::vector<std::tuple<std::string, bool>> list;
        for (const Implementation& i : implementations()) list.emplace_back(i.name, i.supported());
        return list;
    });
    m.def("cpu_name", cpu_name);
    m.def("cpu_features", cpu_features);
}
