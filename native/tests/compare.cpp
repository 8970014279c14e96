// Every operation of every instruction set of this build, compared without Python: the scalar kernels against plain
// loops in double, the others against the scalar ones. For machines that can only be emulated.
//
//   compare [isa ...]   the instruction sets that this processor has to have, all others have to be missing;
//                       none named: whatever it has
// Exits 1 on a difference, after printing each.
#include <array>
#include <functional>

#include "compare.h"
#include "foreign.h"

namespace {

// ---- the operations -------------------------------------------------------------------------------------------

// Root mean square of what was lost, relative to x.
double error(const Floats& y, const Floats& x) {
    double lost = 0, power = 0;
    for (size_t i = 0; i < x.size(); i++) {
        lost += (double(x[i]) - y[i]) * (double(x[i]) - y[i]);
        power += double(x[i]) * x[i];
    }
    return std::sqrt(lost / power);
}

void check_quantize(Runner& runner, const FormatRow& row) {
    constexpr int64_t SHAPES[][2] = {{1, 1}, {64, 256}, {65, 300}};
    for (const auto& [out, in] : SHAPES) {
        const Floats x = normals(out * in);
        Doubles errors;
        for (const Implementation* isa : runner.isas) {
            const Bytes storage = tiled_storage(*isa->kernels, runner.pool.team(), row, x, out, in);
            errors.push_back(error(widened(*isa->kernels, {storage.data(), out, in, row.format}), x));
            report(isa->name, label("quantize", row.name, out, in, 0), errors.back(), row.error);
            // Where two candidates are a rounding apart either may be chosen.
            report(isa->name, label("quantize alike", row.name, out, in, 0), errors.back(), errors[0] * 1.001 + 1e-7);
        }
    }
    Floats bad = normals(70 * 300);
    bad[66 * 300 + 299] = NAN;
    const Matrix from = matrix_of(bad, 70, 300);
    for (const Implementation* isa : runner.isas) {
        Bytes storage(size_t(4 * row.tile_bytes));
        const int64_t found = isa->kernels->quantize(runner.pool.team(), &from, row.format, nullptr, false, storage.data());
        report(isa->name, std::string("quantize refuses a NaN in row 66 ") + row.name, double(std::abs(found - 66)), 0);
    }
}

void check_embed(Runner& runner, const FormatRow& row) {
    for (int64_t in : {1, 3, 4, 15, 17, 33, 257}) {
        const Floats x = normals(66 * in);
        const Weight w = make_weight(runner, row, x, 66, in);
        report("scalar", label("embed (definition)", row.name, 66, in, 66), error(w.values, x), row.error);
        runner.check(label("embed", row.name, 66, in, 66), {}, 0,
                     [&](const Kernels& k) { return widened(k, w.matrix); });
    }
}

void check_linear(Runner& runner, const FormatRow& row) {
    struct Shape {
        int64_t out, in;
        std::vector<int64_t> tokens;
    };
    const std::vector<Shape> shapes = {
        {1, 1, {1, 2}},          {3, 5, {1, 3}},        {63, 17, {1, 2, 5}},
        {65, 300, {1, 2, 4, 7}}, {130, 771, {1, 3, 6}}, {64, 256, {1, 2, 3, 4, 5, 6, 7, 8, 9, 11}},
        {70, 260, {129, 40}},    {67, 2300, {1, 2, 19}},
    };
    for (const Shape& shape : shapes)
        for (bool extreme : {false, true}) {
            const auto draw = extreme ? signs : normals;
            const Weight w = make_weight(runner, row, draw(shape.out * shape.in), shape.out, shape.in);
            for (int64_t n : shape.tokens) {
                Floats x = draw(n * shape.in);
                // The first token along the first row: the largest sum there can be.
                if (extreme) std::copy_n(w.values.begin(), shape.in, x.begin());
                if (n > 2) std::fill_n(x.begin() + 2 * shape.in, shape.in, 0.0f);
                auto linear = [&](const Kernels& k) {
                    Floats out(size_t(n * shape.out));
                    k.linear(runner.pool.team(), x.data(), n, &w.matrix, out.data());
                    return out;
                };
                const std::string what =
                    label(extreme ? "linear at extremes" : "linear", row.name, shape.out, shape.in, n);
                runner.check(what, product(w, x.data(), n, row.tile_bytes), ROUNDING, linear);
                if (n > 20) continue;
                for (const Implementation* isa : runner.isas) {
                    Floats alone(size_t(n * shape.out));
                    for (int64_t t = 0; t < n; t++)
                        isa->kernels->linear(runner.pool.team(), &x[size_t(t * shape.in)], 1, &w.matrix,
                                             &alone[size_t(t * shape.out)]);
                    report(isa->name, what + ": to the last bit as alone", linear(*isa->kernels) == alone ? 0 : 1, 0);
                }
            }
        }
}

using Make = std::function<Weight(int64_t out, int64_t in)>;

// rounds: whether inputs are rounded to int8; shapes: dim, hidden_dim, tokens.
void check_moe(Runner& runner, const char* name, bool rounds, const std::vector<std::array<int64_t, 3>>& shapes,
               const Make& make) {
    constexpr int64_t E = 3, A = 2;
    for (const auto& [dim, hidden_dim, n] : shapes) {
        std::vector<Weight> weights;
        for (int64_t e = 0; e < E; e++) {
            weights.push_back(make(hidden_dim, dim));
            weights.push_back(make(hidden_dim, dim));
            weights.push_back(make(dim, hidden_dim));
        }
        std::vector<ExpertMatrices> matrices;
        for (size_t e = 0; e < size_t(E); e++)
            matrices.push_back({weights[3 * e].matrix, weights[3 * e + 1].matrix, weights[3 * e + 2].matrix});
        const Floats x = normals(n * dim);
        std::vector<int32_t> experts;
        Floats shares;
        for (int64_t t = 0; t < n; t++) {
            const auto first = int32_t(t % 5 ? 0 : engine() % E);  // one expert with most of the tokens
            experts.push_back(first);
            experts.push_back(int32_t((first + 1 + engine() % (E - 1)) % E));
            shares.push_back(0.7f);
            shares.push_back(0.3f);
        }
        Doubles definition(size_t(n * dim));
        for (int64_t t = 0; t < n; t++)
            for (int64_t a = 0; a < A; a++) {
                const Weight* w = &weights[3 * size_t(experts[size_t(t * A + a)])];
                const Doubles gates = product(w[0], x.data() + t * dim, 1, rounds);
                const Doubles ups = product(w[1], x.data() + t * dim, 1, rounds);
                Floats hidden;
                for (size_t f = 0; f < size_t(hidden_dim); f++)
                    hidden.push_back(float(gates[f] / (1 + std::exp(-gates[f])) * ups[f]));
                const Doubles y = product(w[2], hidden.data(), 1, rounds);
                for (size_t o = 0; o < size_t(dim); o++)
                    definition[size_t(t * dim) + o] += double(shares[size_t(t * A + a)]) * y[o];
            }
        runner.check(label("moe", name, hidden_dim, dim, n), definition, rounds ? REQUANTIZED : SOFTMAX,
                     [&](const Kernels& k) {
                         Floats out(size_t(n * dim));
                         const MoeCall call = {x.data(),       out.data(),    n, dim, hidden_dim,
                                               experts.data(), shares.data(), A, E,   matrices.data(), nullptr};
                         k.moe(runner.pool.team(), &call);
                         return out;
                     });
    }
}

void check_rms_norm(Runner& runner) {
    for (int64_t dim : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 300}) {
        const int64_t n = 3;
        const Floats x = normals(n * dim), weight = normals(dim);
        Doubles definition;
        for (int64_t t = 0; t < n; t++) {
            double squares = 0;
            for (int64_t i = 0; i < dim; i++) squares += double(x[size_t(t * dim + i)]) * x[size_t(t * dim + i)];
            for (int64_t i = 0; i < dim; i++)
                definition.push_back(x[size_t(t * dim + i)] / std::sqrt(squares / double(dim) + 1e-5) *
                                     weight[size_t(i)]);
        }
        runner.check(label("rms_norm", "", 0, dim, n), definition, ROUNDING, [&](const Kernels& k) {
            Floats out(x.size());
            k.rms_norm(runner.pool.team(), x.data(), weight.data(), n, dim, 1e-5f, out.data());
            return out;
        });
    }
}

void check_rope(Runner& runner) {
    for (int64_t half : {1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 64}) {
        const int64_t n = 2, heads = 3, dim = 2 * half;
        const Floats x = normals(n * heads * dim);
        Floats cos, sin;
        for (int64_t i = 0; i < n * half; i++) {
            const float angle = 3 * normal();
            cos.push_back(std::cos(angle)), sin.push_back(std::sin(angle));
        }
        Doubles definition(x.size());
        for (int64_t row = 0; row < n * heads; row++)
            for (int64_t i = 0; i < half; i++) {
                const double a = x[size_t(row * dim + i)], b = x[size_t(row * dim + half + i)];
                const double c = cos[size_t(row / heads * half + i)], s = sin[size_t(row / heads * half + i)];
                definition[size_t(row * dim + i)] = a * c - b * s;
                definition[size_t(row * dim + half + i)] = b * c + a * s;
            }
        runner.check(label("rope", "", heads, dim, n), definition, ROUNDING, [&](const Kernels& k) {
            Floats out(x.size());
            k.rope(x.data(), cos.data(), sin.data(), n, heads, dim, out.data());
            return out;
        });
    }
}

void check_route(Runner& runner) {
    const int64_t n = 9, n_experts = 7, n_chosen = 3;
    Floats logits = normals(n * n_experts);
    logits[1] = logits[3] = logits[5] = 4;  // ties go to the lower index
    std::vector<int32_t> first;
    for (const Implementation* isa : runner.isas) {
        std::vector<int32_t> experts(size_t(n * n_chosen));
        Floats weights(experts.size());
        const RouteCall call = {logits.data(), n, n_experts, n_chosen, experts.data(), weights.data()};
        isa->kernels->route(&call);
        if (first.empty()) first = experts;
        report(isa->name, "route's experts", difference(experts, first), 0);
        Doubles definition;
        std::vector<int32_t> order;
        for (int64_t t = 0; t < n; t++) {
            const float* row = &logits[size_t(t * n_experts)];
            std::vector<int32_t> all;
            for (int32_t e = 0; e < n_experts; e++) all.push_back(e);
            std::stable_sort(all.begin(), all.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
            double total = 0;
            for (int64_t a = 0; a < n_chosen; a++) total += std::exp(double(row[all[size_t(a)]]));
            for (int64_t a = 0; a < n_chosen; a++) {
                order.push_back(all[size_t(a)]);
                definition.push_back(std::exp(double(row[all[size_t(a)]])) / total);
            }
        }
        report(isa->name, "route's order", difference(experts, order), 0);
        report(isa->name, "route's weights", difference(weights, definition), SOFTMAX);
    }
}

// What a cache holds, read back as float32 by the scalar embed.
Floats read_pool(Runner& runner, const Bytes& pool, bool f16, int64_t n) {
    return widened(*runner.isas.front()->kernels, {pool.data(), 1, n, f16 ? Format::f16 : Format::f32});
}

struct AttentionCase {
    int64_t heads, kv_heads, dim, window;
    bool cached, f16;
};

void check_attention(Runner& runner, const AttentionCase& c) {
    constexpr int64_t PAGE = 5, WIDTH = 12, LENGTHS[] = {17, 1, 40}, B = 3;
    // Cached: a first call with the prompts, then one with a token for each; the last of it is what is compared.
    const int64_t row = c.kv_heads * c.dim, n_pages = B * WIDTH;
    std::vector<int32_t> table;
    for (int64_t i = 0; i < n_pages; i++) table.push_back(int32_t(n_pages - 1 - i));
    std::vector<Floats> keys(B), values(B);  // all of each sequence, [n, K, C]
    std::vector<Bytes> key_pools, value_pools;
    const size_t pool_bytes = size_t(n_pages * row * PAGE * (c.f16 ? 2 : 4));
    key_pools.assign(runner.isas.size(), Bytes(pool_bytes)), value_pools = key_pools;
    for (int step = 0; step < (c.cached ? 3 : 1); step++) {
        std::vector<int32_t> positions, starts = {0};
        Floats q, k, v;
        for (size_t b = 0; b < size_t(B); b++) {
            const int64_t before = int64_t(keys[b].size()) / row;
            const int64_t n = step == 0 ? LENGTHS[b] : step == 1 ? 1 : 2 - int64_t(b);
            for (int64_t t = 0; t < n; t++) positions.push_back(int32_t(before + t));
            starts.push_back(starts.back() + int32_t(n));
            const Floats own_k = normals(n * row), own_v = normals(n * row);
            k.insert(k.end(), own_k.begin(), own_k.end()), v.insert(v.end(), own_v.begin(), own_v.end());
            keys[b].insert(keys[b].end(), own_k.begin(), own_k.end());
            values[b].insert(values[b].end(), own_v.begin(), own_v.end());
        }
        const auto n_tokens = int64_t(positions.size());
        q = normals(n_tokens * c.heads * c.dim);
        size_t isa = 0;
        std::vector<Floats> results;
        for (const Implementation* i : runner.isas) {
            Floats out(q.size());
            AttentionCall call = {};
            call.q = q.data(), call.k = k.data(), call.v = v.data(), call.out = out.data();
            call.n_tokens = n_tokens, call.n_heads = c.heads, call.n_kv_heads = c.kv_heads, call.head_dim = c.dim;
            call.positions = positions.data(), call.starts = starts.data();
            call.n_sequences = B, call.window = c.window;
            if (c.cached) {
                call.keys = key_pools[isa].data(), call.values = value_pools[isa].data(), call.cache_is_f16 = c.f16;
                call.page_size = PAGE, call.table_width = WIDTH, call.table = table.data();
            }
            i->kernels->attention(runner.pool.team(), &call);
            results.push_back(out);
            isa++;
        }
        Floats pool_keys, pool_values;
        if (c.cached) {
            pool_keys = read_pool(runner, key_pools[0], c.f16, n_pages * row * PAGE);
            pool_values = read_pool(runner, value_pools[0], c.f16, n_pages * row * PAGE);
        }
        auto at = [&](const Floats& pool, const Floats& own, size_t b, int64_t p, int64_t j) {
            if (!c.cached) return &own[size_t((p * c.kv_heads + j) * c.dim)];
            const int64_t page = table[b * size_t(WIDTH) + size_t(p / PAGE)];
            return &pool[size_t(((page * c.kv_heads + j) * PAGE + p % PAGE) * c.dim)];
        };
        Doubles definition(q.size());
        for (size_t b = 0; b < size_t(B); b++)
            for (int32_t t = starts[b]; t < starts[b + 1]; t++)
                for (int64_t h = 0; h < c.heads; h++) {
                    const int64_t j = h / (c.heads / c.kv_heads), p = positions[size_t(t)];
                    const size_t to = size_t((t * c.heads + h) * c.dim);
                    Doubles weights;
                    double total = 0;
                    const int64_t from = c.window ? std::max<int64_t>(0, p - c.window + 1) : 0;
                    for (int64_t s = from; s <= p; s++) {
                        double score = 0;
                        const float* key = at(pool_keys, keys[b], b, s, j);
                        for (int64_t i = 0; i < c.dim; i++) score += double(q[to + size_t(i)]) * key[i];
                        weights.push_back(std::exp(score / std::sqrt(double(c.dim))));
                        total += weights.back();
                    }
                    for (int64_t s = from; s <= p; s++)
                        for (int64_t i = 0; i < c.dim; i++)
                            definition[to + size_t(i)] +=
                                weights[size_t(s - from)] / total * at(pool_values, values[b], b, s, j)[i];
                }
        const std::string what = "attention H " + std::to_string(c.heads) + " K " + std::to_string(c.kv_heads) + " C " +
                                 std::to_string(c.dim) + " window " + std::to_string(c.window) +
                                 (c.cached ? c.f16 ? " f16 cache" : " f32 cache" : " no cache");
        for (size_t i = 0; i < results.size(); i++) {
            const std::string isa = runner.isas[i]->name;
            const bool rounds = c.f16 && (isa == "avx512bf16" || isa == "amx");
            report(isa, what + " (definition)", difference(results[i], definition), rounds ? BFLOAT16 : SOFTMAX);
            if (c.cached) report(isa, what + ": cache", key_pools[i] == key_pools[0] ? 0 : 1, 0);
        }
    }
}

// A prompt over a cache, cut in two ways, gives the same bits.
void check_cuts(Runner& runner, const AttentionCase& c) {
    constexpr int64_t PAGE = 5, N = 90;
    const std::vector<std::vector<int64_t>> cuts = {{90}, {2, 31, 3, 7, 47}};
    std::vector<int32_t> table, positions;
    for (int32_t i = 0; i < int32_t(N); i++) positions.push_back(i);
    for (int32_t i = 0; i < int32_t(N / PAGE); i++) table.push_back(i);
    const Floats q = normals(N * c.heads * c.dim), k = normals(N * c.kv_heads * c.dim), v = normals(k.size());
    for (const Implementation* isa : runner.isas) {
        std::vector<Floats> results;
        for (const std::vector<int64_t>& pieces : cuts) {
            Bytes keys(k.size() * (c.f16 ? 2 : 4)), values(keys.size());
            Floats out(q.size());
            int64_t at = 0;
            for (int64_t n : pieces) {
                const int32_t starts[] = {0, int32_t(n)};
                AttentionCall call = {};
                call.q = &q[size_t(at * c.heads * c.dim)], call.out = &out[size_t(at * c.heads * c.dim)];
                call.k = &k[size_t(at * c.kv_heads * c.dim)], call.v = &v[size_t(at * c.kv_heads * c.dim)];
                call.n_tokens = n, call.n_heads = c.heads, call.n_kv_heads = c.kv_heads, call.head_dim = c.dim;
                call.positions = &positions[size_t(at)], call.starts = starts;
                call.n_sequences = 1, call.window = c.window;
                call.keys = keys.data(), call.values = values.data(), call.cache_is_f16 = c.f16;
                call.page_size = PAGE, call.table_width = N / PAGE, call.table = table.data();
                isa->kernels->attention(runner.pool.team(), &call);
                at += n;
            }
            results.push_back(out);
        }
        report(isa->name, "attention cut in two ways, window " + std::to_string(c.window),
               results[0] == results[1] ? 0 : 1, 0);
    }
}

}  // namespace

int main(int n_arguments, char** arguments) {
    Runner runner;
    std::vector<std::string> names;
    for (const Implementation& isa : implementations()) {
        if (!isa.supported()) continue;
        runner.isas.push_back(&isa);
        names.emplace_back(isa.name);
    }
    std::string features;
    for (const std::string& feature : cpu_features()) features += " " + feature;
    std::printf("processor: %s;%s\n", cpu_name().c_str(), features.c_str());
    std::printf("instruction sets:");
    for (const std::string& name : names) std::printf(" %s", name.c_str());
    std::printf("\n");
    const std::vector<std::string> expected(arguments + 1, arguments + n_arguments);
    if (!expected.empty() && names != expected) {
        std::printf("expected others:");
        for (const std::string& name : expected) std::printf(" %s", name.c_str());
        std::printf("\n");
        return 1;
    }
    for (const FormatRow& row : FORMATS) {
        if (row.tile_bytes) check_quantize(runner, row);
        check_embed(runner, row);
        check_linear(runner, row);
        check_moe(runner, row.name, row.tile_bytes, {{6, 9, 1}, {260, 300, 3}, {65, 257, 24}},
                  [&](int64_t out, int64_t in) { return make_weight(runner, row, normals(out * in), out, in); });
    }
    for (const Foreign& row : FOREIGN) {
        check_values(runner, row);
        check_linear(runner, row);
        check_moe(runner, row.name, row.rounds, {{256, 512, 7}},
                  [&](int64_t out, int64_t in) { return foreign_weight(runner, row, out, in); });
    }
    check_rms_norm(runner);
    check_rope(runner);
    check_route(runner);
    constexpr int64_t HEADS[][3] = {{1, 1, 2}, {6, 2, 10}, {4, 4, 16}, {8, 2, 34}, {40, 1, 18}, {8, 2, 128}};
    for (const auto& [heads, kv_heads, dim] : HEADS)
        for (int64_t window : {0, 7}) {
            check_attention(runner, {heads, kv_heads, dim, window, false, false});
            check_attention(runner, {heads, kv_heads, dim, window, true, false});
            check_attention(runner, {heads, kv_heads, dim, window, true, true});
            check_cuts(runner, {heads, kv_heads, dim, window, true, false});
            check_cuts(runner, {heads, kv_heads, dim, window, true, true});
        }
    std::printf("%d checks, %d failed\n", n_checks, n_failures);
    return n_failures != 0;
}
