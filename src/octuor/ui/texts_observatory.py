"""What the observatory says: by key, in English, French, German, Italian, Spanish.

Keys that begin with view_ are the fields of octuor.routing.html.Words.
"""

from __future__ import annotations

from collections.abc import Mapping

Row = tuple[str, str, str, str, str]

OBSERVATORY: Mapping[str, Row] = {
    # ---- the tab ---------------------------------------------------------------------------------
    "tab_observatory": ("Observatory", "Observatoire", "Observatorium", "Osservatorio", "Observatorio"),
    "observatory_about": (
        "Two of eight experts play each token, in every layer. Here you see which.",
        "Deux experts sur huit jouent chaque token, à chaque couche. Voici lesquels.",
        "Zwei von acht Experten spielen jedes Token, in jeder Schicht. Hier sehen Sie, welche.",
        "Due esperti su otto suonano ogni token, a ogni strato. Qui vedi quali.",
        "Dos de ocho expertos tocan cada token, en cada capa. Aquí se ve cuáles.",
    ),
    "observe_answer": (
        "The last answer",
        "La dernière réponse",
        "Die letzte Antwort",
        "L’ultima risposta",
        "La última respuesta",
    ),
    "observe_conversation": (
        "The whole conversation",
        "Toute la conversation",
        "Die ganze Unterhaltung",
        "Tutta la conversazione",
        "Toda la conversación",
    ),
    "observe_text": ("A text of mine", "Un texte à moi", "Ein eigener Text", "Un testo mio", "Un texto mío"),
    "your_text": ("Any text", "Un texte quelconque", "Ein beliebiger Text", "Un testo qualsiasi", "Cualquier texto"),
    "your_text_hint": (
        "Type or paste a text, in any language, or code",
        "Tapez ou collez un texte, dans n’importe quelle langue, ou du code",
        "Text eingeben oder einfügen, in jeder Sprache, auch Code",
        "Scrivi o incolla un testo, in qualsiasi lingua, o del codice",
        "Escriba o pegue un texto, en cualquier idioma, o código",
    ),
    "route": ("Send it through", "Le faire passer", "Hindurchschicken", "Fallo passare", "Hacerlo pasar"),
    "no_answer_yet": (
        "Nothing to see yet: ask something in the chat, or send a text of your own through.",
        "Rien à voir pour l’instant : posez une question dans la discussion, ou faites passer un texte à vous.",
        "Noch ist nichts zu sehen: Fragen Sie etwas im Chat, oder schicken Sie einen eigenen Text hindurch.",
        "Ancora niente da vedere: chiedi qualcosa nella chat, o fai passare un testo tuo.",
        "Aún no hay nada que ver: pregunte algo en el chat, o haga pasar un texto propio.",
    ),
    "no_routes": (
        "This answer has no routes: it was stopped, its model is dense, or it came from another address.",
        "Cette réponse n’a pas de routes : interrompue, d’un modèle dense, ou venue d’une autre adresse.",
        "Diese Antwort hat keine Wege: Sie wurde gestoppt, ihr Modell ist dicht, oder sie kam von anderswo.",
        "Questa risposta non ha percorsi: interrotta, di un modello denso, o venuta da un altro indirizzo.",
        "Esta respuesta no tiene rutas: se detuvo, es de un modelo denso, o vino de otra dirección.",
    ),
    "cannot_observe": (
        "This model tells no routes: it is dense, or it runs at another address.",
        "Ce modèle ne dit pas ses routes : il est dense, ou il tourne à une autre adresse.",
        "Dieses Modell nennt keine Wege: Es ist dicht, oder es läuft an einer anderen Adresse.",
        "Questo modello non dice percorsi: è denso, o gira a un altro indirizzo.",
        "Este modelo no dice rutas: es denso, o funciona en otra dirección.",
    ),
    # ---- the view --------------------------------------------------------------------------------
    "view_layer": ("Layer", "Couche", "Schicht", "Strato", "Capa"),
    "view_first": ("first", "première", "erste", "primo", "primera"),
    "view_middle": ("middle", "milieu", "mittlere", "medio", "media"),
    "view_last": ("last", "dernière", "letzte", "ultimo", "última"),
    "view_text": (
        "The text, each token in the colour of its first expert",
        "Le texte, chaque token dans la couleur de son premier expert",
        "Der Text, jedes Token in der Farbe seines ersten Experten",
        "Il testo, ogni token nel colore del suo primo esperto",
        "El texto, cada token en el color de su primer experto",
    ),
    "view_hint": (
        "Point at a token, tap it, or walk with the arrow keys: left and right by tokens, up and down by layers.",
        "Pointez un token, touchez-le, ou usez des flèches : de côté par tokens, de haut en bas par couches.",
        "Auf ein Token zeigen, tippen oder mit Pfeiltasten gehen: seitwärts durch Token, auf und ab durch Schichten.",
        "Indica un token, toccalo, o muoviti con le frecce: di lato per token, su e giù per strati.",
        "Señale un token, tóquelo, o muévase con las flechas: a los lados por tokens, arriba y abajo por capas.",
    ),
    "view_legend": (
        "Share of each expert as first choice at this layer; press one to see its tokens alone",
        "Part de chaque expert comme premier choix à cette couche ; appuyez sur l’un d’eux pour ne voir que ses tokens",
        "Anteil jedes Experten als erste Wahl in dieser Schicht; einen drücken, um nur seine Token zu sehen",
        "Quota di ogni esperto come prima scelta in questo strato; premine uno per vedere solo i suoi token",
        "Parte de cada experto como primera elección en esta capa; pulse uno para ver solo sus tokens",
    ),
    "view_token": (
        "token {number}, id {id}",
        "token {number}, id {id}",
        "Token {number}, Nr. {id}",
        "token {number}, id {id}",
        "token {number}, id {id}",
    ),
    "view_experts_at": (
        "Experts at layer {layer}",
        "Experts à la couche {layer}",
        "Experten in Schicht {layer}",
        "Esperti allo strato {layer}",
        "Expertos en la capa {layer}",
    ),
    "view_expert": ("Expert {number}", "Expert {number}", "Experte {number}", "Esperto {number}", "Experto {number}"),
    "view_strip": (
        "first expert, layer by layer",
        "premier expert, couche par couche",
        "erster Experte, Schicht für Schicht",
        "primo esperto, strato per strato",
        "primer experto, capa por capa",
    ),
    "view_probability": (
        "Probability {share}; what might have stood here:",
        "Probabilité {share} ; ce qui aurait pu se trouver ici :",
        "Wahrscheinlichkeit {share}; was hier hätte stehen können:",
        "Probabilità {share}; che cosa poteva stare qui:",
        "Probabilidad {share}; lo que podría haber aquí:",
    ),
    "view_load": (
        "Load: layers by experts",
        "Charge : couches et experts",
        "Last: Schichten und Experten",
        "Carico: strati ed esperti",
        "Carga: capas y expertos",
    ),
    "view_load_about": (
        "Share of each layer’s work that an expert has. If all had the same it would be {share}.",
        "Part du travail de chaque couche qui revient à un expert. À parts égales, ce serait {share}.",
        "Anteil eines Experten an der Arbeit jeder Schicht. Wäre er bei allen gleich, wären es {share}.",
        "Quota del lavoro di ogni strato che tocca a un esperto. In parti uguali sarebbe {share}.",
        "Parte del trabajo de cada capa que hace un experto. A partes iguales sería {share}.",
    ),
    "view_load_cell": (
        "Layer {layer}, expert {expert}: {share} of the work, {count} of {all}; first choice of {first}",
        "Couche {layer}, expert {expert} : {share} du travail, {count} sur {all} ; premier choix de {first}",
        "Schicht {layer}, Experte {expert}: {share} der Arbeit, {count} von {all}; erste Wahl von {first}",
        "Strato {layer}, esperto {expert}: {share} del lavoro, {count} su {all}; prima scelta del {first}",
        "Capa {layer}, experto {expert}: {share} del trabajo, {count} de {all}; primera elección del {first}",
    ),
    "view_uniform": (
        "{share} if even",
        "{share} à parts égales",
        "{share} bei gleicher Last",
        "{share} se pari",
        "{share} si es igual",
    ),
    "view_repetition": (
        "Repetition between neighbouring tokens",
        "Répétition entre tokens voisins",
        "Wiederholung zwischen benachbarten Token",
        "Ripetizione tra token vicini",
        "Repetición entre tokens vecinos",
    ),
    "view_repetition_about": (
        "How often the next token goes to the same expert; dashed: what chance would give.",
        "À quelle fréquence le token suivant va au même expert ; en tirets : ce que donnerait le hasard.",
        "Wie oft das nächste Token zum selben Experten geht; gestrichelt: was der Zufall ergäbe.",
        "Quanto spesso il token seguente va allo stesso esperto; tratteggiato: ciò che darebbe il caso.",
        "Con qué frecuencia el token siguiente va al mismo experto; a trazos: lo que daría el azar.",
    ),
    "view_repeated": (
        "{kind} {share} (chance {chance})",
        "{kind} {share} (hasard {chance})",
        "{kind} {share} (Zufall {chance})",
        "{kind} {share} (caso {chance})",
        "{kind} {share} (azar {chance})",
    ),
    "view_one": (
        "same first choice",
        "même premier choix",
        "gleiche erste Wahl",
        "stessa prima scelta",
        "misma primera elección",
    ),
    "view_two": (
        "first or second choice in common",
        "premier ou second choix en commun",
        "erste oder zweite Wahl gemeinsam",
        "prima o seconda scelta in comune",
        "primera o segunda elección en común",
    ),
    "view_chance": ("chance {share}", "hasard {share}", "Zufall {share}", "caso {share}", "azar {share}"),
    "view_cut": (
        "The last {shown} of {all} tokens are shown.",
        "Les {shown} derniers tokens sur {all} sont montrés.",
        "Gezeigt werden die letzten {shown} von {all} Token.",
        "Sono mostrati gli ultimi {shown} token su {all}.",
        "Se muestran los últimos {shown} tokens de {all}.",
    ),
}
