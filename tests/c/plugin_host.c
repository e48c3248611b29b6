/* Loads a plugin, runs it and closes it, again and again: plugin_host ./plugin.so */
#include <dlfcn.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words) {
    for (int turn = 0; turn < 20; turn++) {
        void *plugin = count == 2 ? dlopen(words[1], RTLD_NOW | RTLD_LOCAL) : NULL;
        int (*run)(void) = plugin ? (int (*)(void))dlsym(plugin, "run") : NULL;
        if (!run || run() != 0)
            return 1;
        dlclose(plugin);
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL); /* its workers fall asleep, if they can */
    }
    return fork() < 0; /* asks whoever wants to know of forks */
}
